"""Several sources in one training set: their examples, and how often each comes."""

import itertools
import json

import numpy as np
import pytest

from balora_jax.config import DataConfig
from balora_jax.data import (
    Examples,
    load_tokenizer,
    prepare,
    shown_rows,
    shuffled_order,
    windowed_order,
)
from balora_jax.data.mixtures import join_examples
from tests.cases.run_cases import write_sums

SIZES = (30, 7, 100)
WEIGHTS = (1.0, 2.0, 5.0)


def _piece(size, first):
    """Pairs of two tokens of the prompt and one to four of the answer; all tokens say which."""
    lengths = 3 + np.arange(size) % 4
    return Examples(
        tokens=np.repeat(np.arange(first, first + size, dtype=np.int32), lengths),
        starts=np.concatenate([[0], np.cumsum(lengths)]),
        pad_id=0,
        prompt_lengths=np.full(size, 2, np.int32),
        rows=np.arange(size),
        dropped_empty=1,
    )


def _joined(weights=WEIGHTS):
    firsts = np.cumsum([0, *SIZES])
    pieces = [_piece(size, first) for size, first in zip(SIZES, firsts[:-1], strict=True)]
    return join_examples(pieces, ["a", "b", "c"], weights)


def _orders(examples, batch_size, steps, seed):
    """The rows of the first batches, in either order."""
    shuffled = shuffled_order(examples, batch_size, seed)
    windowed = windowed_order(examples, batch_size, steps=steps, seed=seed)
    return [np.stack([order[step] for step in range(steps)]) for order in (shuffled, windowed)]


def _source(rows):
    return np.searchsorted(np.cumsum(SIZES), rows, side="right")


def test_joined_examples_are_those_of_the_sources():
    joined = _joined()
    assert len(joined) == sum(SIZES)
    assert [int(joined[index][0]) for index in range(len(joined))] == list(range(sum(SIZES)))
    # The rows of a source follow those of the one before, which had one row without an answer.
    assert joined.rows[30] == 31 and joined.rows[-1] == sum(SIZES) + 1
    assert joined.dropped_empty == 3
    assert [part.share for part in joined.parts] == [1 / 8, 2 / 8, 5 / 8]
    assert _joined(None).parts[2].share == 100 / 137 and not _joined(None).weighted


def test_counted_tokens_are_joined_with_those_of_conversations():
    pairs = _piece(4, 0)
    turns = _piece(3, 4)
    counted = np.arange(len(turns.tokens)) % 2 == 0
    conversations = Examples(
        turns.tokens, turns.starts, 0, turns.prompt_lengths, counted, rows=turns.rows
    )
    joined = join_examples([pairs, conversations], ["a", "b"], None)
    for index in range(4):
        np.testing.assert_array_equal(joined.counted_of(index), pairs.counted_of(index))
    for index in range(3):
        np.testing.assert_array_equal(joined.counted_of(4 + index), conversations.counted_of(index))


@pytest.mark.parametrize("seed", [0, 7])
def test_sources_come_by_their_weights(seed):
    """At every moment, to within one example a source and batch; each in whole epochs."""
    for rows in _orders(_joined(), 8, 200, seed):
        stream = _source(rows.ravel())
        shares = np.bincount(stream, minlength=3) / stream.size
        np.testing.assert_allclose(shares, np.array(WEIGHTS) / 8, atol=2 / stream.size)
        for source, (size, first) in enumerate(zip(SIZES, (0, 30, 37), strict=True)):
            times = np.bincount(rows.ravel()[stream == source] - first, minlength=size)
            assert times.max() - times.min() <= 1


def test_the_mixture_is_even_from_the_beginning():
    shuffled, _ = _orders(_joined(), 8, 20, seed=3)
    for end in range(1, 160):
        counts = np.bincount(_source(shuffled.ravel()[:end]), minlength=3)
        assert np.abs(counts - end * np.array(WEIGHTS) / 8).max() < 2


def test_the_order_depends_on_the_seed_alone():
    for again, first in zip(
        _orders(_joined(), 8, 20, 3), _orders(_joined(), 8, 20, 3), strict=True
    ):
        np.testing.assert_array_equal(first, again)
    for other, first in zip(
        _orders(_joined(), 8, 20, 4), _orders(_joined(), 8, 20, 3), strict=True
    ):
        assert (first != other).any()


def test_the_shown_rows_are_those_of_the_order():
    examples = _joined((1.0, 1.0, 50.0))
    _, windowed = _orders(examples, 2, 60, 5)
    np.testing.assert_array_equal(
        shown_rows(examples, 2, steps=60, seed=5), np.unique(windowed.ravel())
    )
    assert len(shown_rows(examples, 2, steps=60, seed=5)) < len(examples)


def test_without_weights_sources_are_as_one_file(tmp_path, tiny_llama):
    folder = write_sums(tmp_path)
    lines = (folder / "train.jsonl").read_text().splitlines(keepends=True)
    (folder / "first.jsonl").write_text("".join(lines[:20]))
    (folder / "second.jsonl").write_text("".join(lines[20:]))
    tokenizer = load_tokenizer(str(tiny_llama))

    def tokenized(*sources):
        paths = [str(folder / source) for source in sources]
        config = DataConfig(train=paths, template="{question}", fields={"response": "answer"})
        return prepare(config, tokenizer)

    one = tokenized("train.jsonl")
    two = tokenized("first.jsonl", "second.jsonl")
    np.testing.assert_array_equal(one.tokens, two.tokens)
    np.testing.assert_array_equal(one.rows, two.rows)
    assert str(one) == str(two)
    for first, second in zip(_orders(one, 8, 9, 1), _orders(two, 8, 9, 1), strict=True):
        np.testing.assert_array_equal(first, second)


def test_a_share_of_each_source_is_held_out(tmp_path, tiny_llama):
    paths = []
    for name, count in {"1": 10, "2": 30}.items():
        rows = [{"prompt": f"{name}+{index}", "completion": "x"} for index in range(count)]
        paths.append(tmp_path / f"{name}.jsonl")
        paths[-1].write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = DataConfig(train=[str(path) for path in paths], eval_share=0.2, template="{prompt}")
    tokenizer = load_tokenizer(str(tiny_llama))
    train = prepare(config, tokenizer, "train")
    held_out = prepare(config, tokenizer, "eval")
    assert [part.size for part in train.parts] == [8, 24]
    assert [part.size for part in held_out.parts] == [2, 6]
    texts = [tokenizer.decode(example) for examples in (train, held_out)
             for example in itertools.islice(examples, len(examples))]  # fmt: skip
    assert len(set(texts)) == 40
