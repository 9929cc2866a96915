"""Batches of prompts and answers: shapes, masks, order, and resuming from a saved position."""

import ast
import itertools
import json
from pathlib import Path

import chex
import numpy as np
import pytest

import balora_jax.data
from balora_jax.data import (
    DTYPES,
    Examples,
    collate,
    eval_batches,
    given_order,
    shuffled_order,
    steps_for,
    train_batches,
)


def _examples(count, longest=6):
    """Example i is [i, i, ...], of varying length, with a prompt of one token."""
    lengths = np.array([2 + index % (longest - 1) for index in range(count)])
    return Examples(
        tokens=np.repeat(np.arange(count, dtype=np.int32), lengths),
        starts=np.concatenate([[0], np.cumsum(lengths)]),
        pad_id=99,
        prompt_lengths=np.ones(count, np.int32),
    )


def _stream(examples, batch_size, seed):
    order = shuffled_order(examples, batch_size, seed)
    return train_batches(order, lambda rows: collate(examples, rows, [8]))


def _pass(examples, batch_size):
    order = given_order(examples, batch_size)
    return [batch for _, batch in eval_batches(examples, order, [8])]


def _take(batches, count):
    return [batch.input_ids[:, 0].tolist() for batch in itertools.islice(batches, count)]


def test_collate_counts_the_positions_that_predict_the_answer():
    tokens = np.array([5, 6, 7, 8, 3, 4], np.int32)
    prompts = np.array([2, 0], np.int32)
    examples = Examples(tokens, starts=np.array([0, 4, 6]), pad_id=9, prompt_lengths=prompts)
    batch = collate(examples, [0, 1], [5])
    assert batch.input_ids.tolist() == [[5, 6, 7, 8, 9], [3, 4, 9, 9, 9]]
    assert batch.targets.tolist() == [[6, 7, 8, 9, 9], [4, 9, 9, 9, 9]]
    # Position 1 (token 6, the prompt's last) predicts 7, and position 2 predicts 8. No position
    # predicts token 3 after the empty prompt.
    assert batch.mask.astype(int).tolist() == [[0, 1, 1, 0, 0], [1, 0, 0, 0, 0]]
    assert batch.attention_mask.astype(int).tolist() == [[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]]
    assert [array.dtype for array in batch[:4]] == [np.int32, np.bool_, np.int32, np.bool_]
    assert [np.dtype(dtype) for dtype in DTYPES[:4]] == [array.dtype for array in batch[:4]]
    assert batch.token_type_ids is batch.teacher is None


def test_a_row_that_fills_the_length_counts_its_last_token():
    tokens = np.arange(4, dtype=np.int32)
    prompts = np.array([1], np.int32)
    examples = Examples(tokens, starts=np.array([0, 4]), pad_id=9, prompt_lengths=prompts)
    batch = collate(examples, [0], [4])
    assert batch.mask.astype(int).tolist() == [[1, 1, 1, 0]]


def test_masks_add_up_to_the_counted_tokens():
    examples = _examples(10)
    total = sum(int(batch.mask.sum()) for batch in _pass(examples, 3))
    assert total == examples.counted_tokens


@pytest.mark.parametrize(
    ("epochs", "batch_size", "steps"), [(1, 5, 2), (1, 4, 3), (2, 4, 5), (0.5, 5, 1), (0.01, 5, 1)]
)
def test_steps_for(epochs, batch_size, steps):
    assert steps_for(epochs, 10, batch_size) == steps


def test_every_epoch_has_every_example_in_its_own_order():
    seen = list(itertools.chain(*_take(_stream(_examples(10), 4, seed=0), 10)))
    epochs = [seen[start : start + 10] for start in range(0, 40, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_a_batch_may_be_larger_than_the_data():
    assert [len(batch) for batch in _take(_stream(_examples(3), 8, seed=0), 2)] == [8, 8]


def test_the_seed_decides_the_order():
    examples = _examples(10)
    first, again, other = (_take(_stream(examples, 4, seed), 5) for seed in (7, 7, 8))
    assert first == again != other
    assert _take(_stream(examples, 4, seed=-1), 1)


@pytest.mark.parametrize("taken", [0, 1, 5, 23])
def test_a_resumed_stream_gives_the_same_batches(taken):
    examples = _examples(10)
    original = _stream(examples, 4, seed=3)
    _take(original, taken)
    state = json.loads(json.dumps(original.get_state()))
    expected = [next(original) for _ in range(12)]

    resumed = _stream(examples, 4, seed=3)
    _take(resumed, 2)  # prefetched batches must be thrown away
    resumed.set_state(state)
    for batch in expected:
        chex.assert_trees_all_equal(next(resumed), batch)


def test_evaluation_sees_every_example_once_in_order():
    batches = _pass(_examples(10), 4)
    assert [batch.input_ids.shape for batch in batches] == [(4, 8)] * 3
    counted = [
        int(row[0])
        for batch in batches
        for row, mask in zip(batch.input_ids, batch.mask, strict=True)
        if mask.any()
    ]
    assert counted == list(range(10))


def test_rows_that_fill_up_attend_to_something():
    *_, last = _pass(_examples(10), 4)
    assert last.attention_mask.any(axis=1).all()
    assert not last.mask[2:].any()


def test_own_modules_import_no_jax():
    """Only grain itself imports jax."""
    for path in Path(balora_jax.data.__file__).parent.glob("*.py"):
        tree = ast.walk(ast.parse(path.read_text()))
        names = {
            alias.name for node in tree if isinstance(node, ast.Import) for alias in node.names
        }
        tree = ast.walk(ast.parse(path.read_text()))
        names |= {node.module for node in tree if isinstance(node, ast.ImportFrom)}
        assert not {
            name
            for name in names
            if name.split(".")[0] in {"jax", "jaxlib", "flax", "optax", "torch"}
        }, path
