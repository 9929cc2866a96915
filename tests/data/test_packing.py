"""Packed batches: every example once, as without packing, in rows that are mostly text."""

import numpy as np
import pytest

from balora_jax.data import (
    Examples,
    PackedRows,
    collate,
    pack_all,
    plan_rows,
    sampled_lengths,
    shuffled_order,
)

PAD = 99


def _examples(lengths, *, counted=False, seed=0):
    """Random tokens with prompts of random lengths, or with counted tokens at random."""
    random = np.random.default_rng(seed)
    lengths = np.asarray(lengths)
    tokens = random.integers(0, 90, lengths.sum()).astype(np.int32)
    prompts = (random.random(len(lengths)) * lengths).astype(np.int32)
    return Examples(
        tokens,
        starts=np.concatenate([[0], np.cumsum(lengths)]),
        pad_id=PAD,
        prompt_lengths=prompts,
        counted=random.random(lengths.sum()) < 0.5 if counted else None,
    )


def _skewed(count, longest=512, seed=0):
    """Lengths as those of answers in words: most are short, few are long."""
    drawn = np.random.default_rng(seed).gamma(9.0, 24.0, count).astype(int)
    return np.clip(drawn, 2, longest)


def _texts(batch):
    """(row, tokens, targets, mask, positions) of every text of a batch, found by its arrays."""
    for row in range(len(batch.input_ids)):
        for segment in np.unique(batch.segment_ids[row]):
            here = batch.segment_ids[row] == segment
            if segment == 0:
                assert not batch.mask[row, here].any()
                assert not batch.attention_mask[row, np.flatnonzero(here)[1:]].any()
                continue
            places = np.flatnonzero(here)
            assert (np.diff(places) == 1).all() and batch.attention_mask[row, here].all()
            arrays = (batch.input_ids, batch.targets, batch.mask, batch.positions)
            yield row, *(array[row, here].tolist() for array in arrays)


@pytest.mark.parametrize("counted", [False, True], ids=["prompts", "turns"])
def test_every_example_is_as_without_packing(counted):
    examples = _examples(_skewed(40), counted=counted)
    numbers = np.random.default_rng(1).permutation(40)[:24]
    batch = PackedRows(parts=2, rows=3, lengths=(1024,), filled=1.0).collate(examples, numbers)
    found = {}
    for row, tokens, targets, mask, positions in _texts(batch):
        assert positions == list(range(len(tokens)))
        found[tuple(tokens)] = (row, targets, mask)
    assert len(found) == 24
    padded = collate(examples, numbers, [512])
    for place, number in enumerate(numbers):
        length = examples.lengths[number]
        row, targets, mask = found[tuple(examples[number].tolist())]
        assert row // 3 == place // 12, "the parts of a batch share no row"
        assert mask == padded.mask[place, :length].tolist()
        assert targets == padded.targets[place, :length].tolist()
        assert not padded.mask[place, length:].any()


def test_rows_are_mostly_text_and_of_few_lengths():
    examples = _examples(_skewed(4000))
    order = shuffled_order(examples, 16, seed=0)
    packed = plan_rows(examples, order, parts=1, multiple=1)
    batches = [packed.collate(examples, order[step]) for step in range(500)]
    lengths = {batch.input_ids.shape[1] for batch in batches}
    assert lengths <= set(packed.lengths) and len(packed.lengths) <= 4
    text = sum(int((batch.segment_ids > 0).sum()) for batch in batches)
    share = text / sum(batch.input_ids.size for batch in batches)
    assert share > 0.9
    np.testing.assert_allclose(packed.filled, share, rtol=0.01)
    sampled = sampled_lengths(examples, order, 500)
    assert packed.used_lengths(sampled) == sorted(lengths, reverse=True)
    assert "of them text" in str(packed)


@pytest.mark.parametrize("multiple", [1, 2, 4, 8])
@pytest.mark.parametrize("examples_a_part", [8, 16, 24])
def test_rows_are_divisible_by_the_devices(multiple, examples_a_part):
    examples = _examples(_skewed(300))
    order = shuffled_order(examples, 2 * examples_a_part, seed=0)
    packed = plan_rows(examples, order, parts=2, multiple=multiple)
    assert packed.rows % multiple == 0
    batch = packed.collate(examples, order[3])
    assert len(batch.input_ids) == 2 * packed.rows
    assert (batch.segment_ids > 0).any(axis=1).all(), "each row holds an example"


def test_a_batch_that_needs_more_gets_longer_rows():
    """As one of the batches beyond the sample may."""
    examples = _examples([40] * 10)
    packed = PackedRows(parts=1, rows=2, lengths=(32, 64), filled=1.0)
    assert packed.collate(examples, np.arange(2)).input_ids.shape == (2, 64)
    assert packed.collate(examples, np.arange(10)).input_ids.shape == (2, 224)
    # By eighths, since each length is a program.
    packed = PackedRows(parts=1, rows=2, lengths=(512,), filled=1.0)
    examples = _examples([520, 530, 570, 580])
    found = {packed.collate(examples, [i, i]).input_ids.shape[1] for i in range(4)}
    assert found == {576, 640}


def test_examples_of_one_length_fill_their_rows():
    examples = _examples([64] * 32)
    packed = plan_rows(examples, shuffled_order(examples, 8, 0), parts=1, multiple=1)
    assert (packed.rows, packed.lengths, packed.filled) == (8, (64,), 1.0)


@pytest.mark.parametrize("rows", [1, 4, 7])
def test_a_pass_has_every_example_once(rows):
    examples = _examples(_skewed(150))
    batches = list(pack_all(examples, rows, 600))
    assert {batch.input_ids.shape for _, batch in batches} == {(rows, 600)}
    assert len(batches) * rows * 600 <= 1.3 * len(examples.tokens) + rows * 600
    found = [tuple(tokens) for _, batch in batches for _, tokens, *_ in _texts(batch)]
    assert sorted(found) == sorted(tuple(examples[i].tolist()) for i in range(150))
    numbers = np.concatenate([numbers for numbers, _ in batches])
    assert sorted(numbers.tolist()) == list(range(150))
    counted = sum(int(batch.mask.sum()) for _, batch in batches)
    assert counted == examples.counted_tokens


def test_a_row_without_an_example_reads_a_pad_token():
    examples = _examples([5, 6])
    ((numbers, batch),) = pack_all(examples, 4, 32)
    assert sorted(numbers.tolist()) == [0, 1]
    assert batch.attention_mask.any(axis=1).all()
    assert batch.mask.sum() == examples.counted_tokens


def test_a_pass_has_room_for_its_longest_example():
    examples = _examples([100, 3, 4])
    ((_, batch),) = pack_all(examples, 1, 32)
    assert batch.input_ids.shape == (1, 128)
