"""Token positions, and decoding through the cache against reading the whole text at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from decoder_cases import CASES

from balora_jax.models import load_pretrained
from balora_jax.models.layers.cache import (
    empty_cache,
    place_tokens,
    store,
    text_lengths,
    token_positions,
)


@pytest.mark.parametrize(
    ("attention_mask", "positions"),
    [
        ([1, 1, 1, 1], [0, 1, 2, 3]),
        ([0, 0, 1, 1], [0, 0, 0, 1]),
        ([1, 1, 0, 0], [0, 1, 1, 1]),
        ([0, 0, 0, 0], [0, 0, 0, 0]),
    ],
)
def test_positions_number_the_tokens(attention_mask, positions):
    ours = token_positions(jnp.asarray([attention_mask], bool))
    np.testing.assert_array_equal(ours[0], positions)


def test_a_query_sees_tokens_up_to_itself():
    attention_mask = jnp.asarray([[False, True, True, True]])
    _, mask, cache = place_tokens(attention_mask, None)
    assert cache is None
    expected = np.tril(np.ones((4, 4), bool)) & np.asarray(attention_mask)
    np.testing.assert_array_equal(mask.dense()[0, 1:], expected[1:])


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_piecewise_reading_gives_the_logits_of_the_whole(name, tiny):
    model, params = load_pretrained(tiny(name, CASES[name]).folder)
    variables = {"params": params}
    ids = np.random.default_rng(0).integers(3, 67, (2, 14))
    mask = np.ones(ids.shape, bool)
    mask[1, :3] = False
    whole = jax.jit(model.apply)(variables, ids, mask)
    cache = model.empty_cache(2, 16)
    extend = jax.jit(
        lambda ids, mask, cache: model.apply(variables, ids, mask, cache, method="extend")
    )
    for start, end in [(0, 8), (8, 9), (9, 10), (10, 11), (11, 12), (12, 13), (13, 14)]:
        logits, cache = extend(ids[:, start:end], mask[:, start:end], cache)
        np.testing.assert_allclose(logits, whole[:, end - 1], rtol=1e-4, atol=1e-4)
    assert int(cache.length) == 14
    np.testing.assert_array_equal(cache.filled[:, :14], mask)


def test_texts_that_begin_alike_count_as_the_longest():
    """Two tries in a row, the first with two texts, and padding."""
    positions = jnp.asarray([[0, 1, 2, 1, 2, 3, 0, 1, 0, 0]])
    lengths = text_lengths(positions, None)
    assert lengths.tolist() == [[4, 4, 4, 4, 4, 4, 2, 2, 1, 1]]
    padded = token_positions(jnp.asarray([[False, True, True, True], [True, True, False, False]]))
    assert text_lengths(padded, None)[:, -1].tolist() == [3, 2]


def test_a_text_counts_with_the_room_of_its_cache():
    mask = jnp.asarray([[True, True, True], [False, False, True]])
    cache = empty_cache(1, 2, 8, 1, 2, jnp.float32)
    positions, _, placed = place_tokens(mask, cache)
    assert text_lengths(positions, placed).tolist() == [[8], [6]]
    new = jnp.zeros((1, 2, 3, 1, 2))
    one = jnp.ones((2, 1), bool)
    positions, _, placed = place_tokens(one, store(placed, new, new))
    assert text_lengths(positions, placed).tolist() == [[8], [6]]
