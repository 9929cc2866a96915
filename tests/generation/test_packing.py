"""Packed texts: every text can be read back from its row, and common beginnings are there once."""

import numpy as np
import pytest

from balora_jax.generation.packing import Text, fill_rows, grow_tries

SIZE = 40


def _random_texts(seed, count=60):
    """Texts that often begin as an earlier one does."""
    rng = np.random.default_rng(seed)
    texts = []
    for _ in range(count):
        kept = []
        if texts and rng.random() < 0.7:
            other = texts[rng.integers(len(texts))].tokens
            kept = list(other[: rng.integers(0, len(other) + 1)])
        tokens = [*kept, *rng.integers(0, 5, rng.integers(0 if kept else 1, 9)).tolist()][:SIZE]
        targets = [*tokens[1:], int(rng.integers(5))][-rng.integers(1, len(tokens) + 1) :]
        texts.append(Text(tokens, targets))
    return texts


def _read(trie, place):
    """The tokens that a place sees, in order of their positions."""
    seen = [key for key in range(place + 1) if place < trie.ends[key]]
    assert [trie.positions[key] for key in seen] == list(range(len(seen)))
    return [trie.tokens[key] for key in seen]


@pytest.mark.parametrize("seed", range(20))
def test_every_text_can_be_read_back(seed):
    texts = _random_texts(seed)
    tries = grow_tries(texts, range(len(texts)), SIZE)
    found = [member[0] for trie in tries for member in trie.members]
    assert sorted(found) == list(range(len(texts)))
    for trie in tries:
        predictions = list(trie.predictions)
        for index, numbers in trie.members:
            text = texts[index]
            before = len(text.tokens) - len(text.targets)
            for offset, number in enumerate(numbers):
                place, target = predictions[number]
                assert target == text.targets[offset]
                assert _read(trie, place) == list(text.tokens[: before + offset + 1])


@pytest.mark.parametrize("seed", range(20))
def test_rows_hold_no_more_than_their_size(seed):
    texts = _random_texts(seed)
    tries = grow_tries(texts, range(len(texts)), SIZE)
    rows = fill_rows(tries, SIZE)
    assert sorted(id(trie) for row in rows for trie in row) == sorted(id(trie) for trie in tries)
    tokens = [sum(len(trie.tokens) for trie in row) for row in rows]
    assert max(tokens) <= SIZE
    assert max(sum(len(trie.predictions) for trie in row) for row in rows) <= SIZE
    # First-fit: two rows that would fit into one are not left.
    assert sum(2 * count <= SIZE for count in tokens) <= 1


def test_common_beginnings_are_read_once():
    question = list(range(100, 120))
    texts = [Text([*question, answer], [answer + 1]) for answer in range(10)]
    [trie] = grow_tries(texts, range(10), 64)
    assert len(trie.tokens) == 20 + 10
    # Answers of one token are predicted where the question ends.
    texts = [Text(question, [answer]) for answer in range(10)]
    [trie] = grow_tries(texts, range(10), 64)
    assert (len(trie.tokens), len(trie.predictions)) == (20, 10)
