"""Batches of like lengths: shapes, order, and resuming from a saved position."""

import collections
import dataclasses
import itertools
import json

import chex
import numpy as np
import pytest

from balora_jax.data import (
    Examples,
    collate,
    eval_batches,
    length_order,
    shuffled_order,
    train_batches,
    windowed_order,
)
from balora_jax.data.orders import WINDOW, SortedWindows

BUCKETS = (32, 48, 64, 96, 128)


def _texts(count, longest=100):
    """Example i is [i, i, ...] with label i."""
    lengths = 2 + np.random.default_rng(0).integers(longest - 1, size=count)
    tokens = np.repeat(np.arange(count, dtype=np.int32), lengths)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    labels = np.arange(count, dtype=np.int32)
    return Examples(tokens, starts, pad_id=-1, token_type_ids=tokens % 2, labels=labels)


def _stream(texts, *, steps, seed):
    order = windowed_order(texts, 8, steps=steps, seed=seed)
    return train_batches(order, lambda rows: collate(texts, rows, BUCKETS))


def test_a_batch_has_the_shortest_bucket_that_holds_it_and_its_own_rows():
    texts = _texts(200)
    for batch in itertools.islice(_stream(texts, steps=20, seed=0), 20):
        longest = texts.lengths[batch.targets].max()
        assert batch.input_ids.shape == (
            8,
            next(length for length in BUCKETS if length >= longest),
        )
        for row, label in enumerate(batch.targets):
            length = texts.lengths[label]
            assert (batch.input_ids[row, :length] == label).all()
            assert (batch.token_type_ids[row, :length] == label % 2).all()
            assert (batch.input_ids[row, length:] == -1).all()
            assert batch.attention_mask[row].sum() == length
        assert batch.mask.all()


def test_batches_waste_hardly_more_than_the_buckets_themselves():
    texts = _texts(2000)
    batches = list(_stream(texts, steps=250, seed=0))
    used = sum(batch.attention_mask.sum() for batch in batches) / sum(
        batch.input_ids.size for batch in batches
    )
    alone = sum(min(bucket for bucket in BUCKETS if bucket >= length) for length in texts.lengths)
    assert used > 0.95 * texts.lengths.sum() / alone


def test_every_example_comes_equally_often():
    count, batch_size = 90, 8
    # Whole windows, so that no half of one is missing: 90 epochs' worth divides evenly.
    batches = WINDOW * 9
    order = SortedWindows(np.arange(count) % 7, batch_size, batches, seed=0)
    seen = collections.Counter(int(example) for index in range(batches) for example in order[index])
    assert set(seen.values()) == {batches * batch_size // count}


def test_epochs_differ_and_the_seed_decides():
    lengths = np.ones(WINDOW * 8, int)
    first, second = (
        [order[i].tolist() for i in range(2 * WINDOW)]
        for order in (SortedWindows(lengths, 8, 999, 5),) * 2
    )
    assert first == second
    assert first[:WINDOW] != first[WINDOW:]
    assert first != [SortedWindows(lengths, 8, 999, 6)[i].tolist() for i in range(2 * WINDOW)]


def test_batch_order_does_not_give_the_length_away():
    lengths = np.arange(WINDOW * 8)
    order = SortedWindows(lengths, 8, WINDOW, seed=0)
    means = [lengths[order[index]].mean() for index in range(WINDOW)]
    assert abs(np.corrcoef(means, np.arange(WINDOW))[0, 1]) < 0.4


@pytest.mark.parametrize("taken", [0, 3, 61])
def test_a_resumed_stream_gives_the_same_batches(taken):
    texts = _texts(70)
    original, resumed = (_stream(texts, steps=80, seed=2) for _ in range(2))
    for _ in range(taken):
        next(original)
    state = json.loads(json.dumps(original.get_state()))
    next(resumed)
    resumed.set_state(state)
    for _ in range(10):
        chex.assert_trees_all_equal(next(resumed), next(original))


def test_evaluation_sees_every_example_once():
    texts = _texts(70)
    order = length_order(texts, 16)
    rows, batches = zip(*eval_batches(texts, order, BUCKETS), strict=True)
    assert sorted(np.concatenate(rows)) == list(range(70))
    assert all(len(batch.targets) == 16 for batch in batches)
    for found, batch in zip(rows, batches, strict=True):
        assert (batch.targets[batch.mask] == found).all()
    assert batches[-1].mask.sum() == 70 % 16
    assert batches[-1].attention_mask.any(axis=1).all()


def test_rows_without_labels_get_zeros():
    texts = _texts(5)
    bare = dataclasses.replace(texts, labels=None)
    ((_, batch),) = eval_batches(bare, length_order(bare, 8), [128])
    assert (batch.targets == 0).all()


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_a_stream_without_end_has_batches_of_any_size(batch_size):
    texts = _texts(5)
    order = shuffled_order(texts, batch_size, seed=0)
    batches = train_batches(order, lambda rows: collate(texts, rows, BUCKETS))
    labels = [batch.targets for batch in itertools.islice(batches, 15)]
    counts = collections.Counter(np.concatenate(labels).tolist())
    assert set(counts.values()) == {3 * batch_size}
