"""The attention mask: each condition alone, all together, and packed texts."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from balora_jax.models.layers.attention import attend
from balora_jax.models.layers.mask import AttentionMask
from balora_jax.models.layers.packing import Packing

KEY_MASK = jnp.asarray([[True, True, False, True], [True, False, False, False]])
POSITIONS = jnp.arange(4)[None]


def test_padding_is_the_same_for_all_queries():
    allowed = AttentionMask.padding(KEY_MASK).dense()
    assert allowed.shape == (2, 1, 4)
    np.testing.assert_array_equal(allowed[:, 0], KEY_MASK)


def test_a_masked_query_sees_nothing():
    allowed = AttentionMask.padding(KEY_MASK, query_mask=KEY_MASK).dense()
    expected = np.asarray(KEY_MASK)[:, :, None] & np.asarray(KEY_MASK)[:, None, :]
    np.testing.assert_array_equal(allowed, expected)


def test_causal_masks_are_triangular_and_leave_padding_out():
    allowed = AttentionMask.causal(POSITIONS, POSITIONS, KEY_MASK).dense()
    expected = np.tril(np.ones((4, 4), bool)) & np.asarray(KEY_MASK)[:, None, :]
    np.testing.assert_array_equal(allowed, expected)


def test_positions_decide_and_not_the_order():
    """A query at position 2 sees keys at positions 0, 1 and 2, in whatever slot they are."""
    key_positions = jnp.asarray([[3, 1, 0, 2, 5]])
    mask = AttentionMask.causal(jnp.asarray([[2]]), key_positions, jnp.ones((1, 5), bool))
    np.testing.assert_array_equal(mask.dense()[0, 0], [False, True, True, True, False])


@pytest.mark.parametrize("window", [1, 2, 3, 10])
def test_a_window_counts_the_query_itself(window):
    mask = AttentionMask.causal(POSITIONS, POSITIONS, jnp.ones((1, 4), bool))
    allowed = mask.with_window(window).dense()[0]
    expected = [[i - window < j <= i for j in range(4)] for i in range(4)]
    np.testing.assert_array_equal(allowed, expected)
    np.testing.assert_array_equal(mask.with_window(window).with_window(None).dense(), mask.dense())


def test_segments_of_queries_and_keys_may_differ():
    mask = AttentionMask.padding(jnp.ones((1, 4), bool))
    mask = mask.with_segments(jnp.asarray([[1, 2]]), jnp.asarray([[1, 1, 2, 0]]))
    expected = [[True, True, False, False], [False, False, True, False]]
    np.testing.assert_array_equal(mask.dense()[0], expected)


def test_conditions_act_together():
    rng = np.random.default_rng(0)
    key_mask = rng.random((2, 6)) < 0.7
    query_mask = rng.random((2, 6)) < 0.7
    positions = rng.integers(0, 6, (2, 6))
    segments = rng.integers(0, 2, (2, 6))
    mask = AttentionMask(
        key_mask=jnp.asarray(key_mask),
        query_mask=jnp.asarray(query_mask),
        query_positions=jnp.asarray(positions),
        key_positions=jnp.asarray(positions),
        window=3,
        query_segment_ids=jnp.asarray(segments),
        key_segment_ids=jnp.asarray(segments),
        is_causal=True,
    )
    allowed = jax.jit(AttentionMask.dense)(mask)
    for row, query, key in np.ndindex(2, 6, 6):
        distance = positions[row, query] - positions[row, key]
        expected = (
            key_mask[row, key]
            and query_mask[row, query]
            and 0 <= distance < 3
            and segments[row, query] == segments[row, key]
        )
        assert allowed[row, query, key] == expected


LENGTHS = (5, 8, 3)


def packed_inputs():
    """Query, key and value [1, 16, heads, 8] of three texts, and their cotangent."""
    rng = np.random.default_rng(1)
    return [
        jnp.asarray(rng.normal(size=(1, sum(LENGTHS), heads, 8)), jnp.float32)
        for heads in (4, 2, 2, 4)
    ]


def packed_mask(is_causal: bool) -> AttentionMask:
    """Positions start again in every text; segment ids alone tell the texts apart."""
    positions = jnp.concatenate([jnp.arange(length) for length in LENGTHS])[None]
    key_mask = jnp.ones((1, sum(LENGTHS)), bool)
    segment_ids = jnp.repeat(jnp.arange(len(LENGTHS)), jnp.asarray(LENGTHS))[None]
    mask = AttentionMask.padding(key_mask)
    if is_causal:
        mask = AttentionMask.causal(positions, positions, key_mask)
    return mask.with_segments(segment_ids)


def alone_mask(length: int, is_causal: bool) -> AttentionMask:
    key_mask = jnp.ones((1, length), bool)
    if not is_causal:
        return AttentionMask.padding(key_mask)
    positions = jnp.arange(length)[None]
    return AttentionMask.causal(positions, positions, key_mask)


@pytest.mark.parametrize(("is_causal", "window"), [(False, None), (True, None), (True, 3)])
def test_packed_texts_attend_as_each_one_alone(is_causal, window):
    *inputs, cotangent = packed_inputs()
    attention = partial(attend, scale=0.4)

    @jax.jit
    def output_and_gradients(mask, inputs, cotangent):
        output, backward = jax.vjp(lambda *arrays: attention(*arrays, mask), *inputs)
        return (output, *backward(cotangent))

    mask = packed_mask(is_causal).with_window(window)
    packed = output_and_gradients(mask, inputs, cotangent)
    start = 0
    for length in LENGTHS:
        span = slice(start, start + length)
        alone = output_and_gradients(
            alone_mask(length, is_causal).with_window(window),
            [array[:, span] for array in inputs],
            cotangent[:, span],
        )
        for together, expected in zip(packed, alone, strict=True):
            np.testing.assert_allclose(together[:, span], expected, rtol=1e-5, atol=1e-6)
        start += length


def test_other_texts_have_no_influence():
    query, key, value, _ = packed_inputs()
    mask = packed_mask(is_causal=True)
    first = slice(0, LENGTHS[0])
    before = attend(query, key, value, mask, scale=0.4)
    key = key.at[:, LENGTHS[0] :].add(7.0)
    value = value.at[:, LENGTHS[0] :].multiply(-3.0)
    after = attend(query, key, value, mask, scale=0.4)
    np.testing.assert_array_equal(after[:, first], before[:, first])
    assert np.abs(after[:, LENGTHS[0] :] - before[:, LENGTHS[0] :]).max() > 0.1


def test_attention_to_packed_texts_compiles_once_for_all_packings():
    query, key, value, _ = packed_inputs()
    traces = []

    @jax.jit
    def attended(mask):
        traces.append(None)
        return attend(query, key, value, mask, scale=0.4)

    mask = packed_mask(is_causal=True)
    attended(mask)
    attended(mask.with_segments(mask.query_segment_ids * 2))
    assert len(traces) == 1


def test_a_packed_mask_is_that_of_the_texts():
    """Row: a, then b and its continuation c, then d after a; and another text e f."""
    ends = np.array([[4, 3, 3, 4, 6, 6, 0]])
    positions = np.array([[0, 1, 2, 1, 0, 1, 0]])
    mask = AttentionMask.packed(Packing(positions, ends=ends), ends > 0).dense()[0]
    expected = {0: [0], 1: [0, 1], 2: [0, 1, 2], 3: [0, 3], 4: [4], 5: [4, 5], 6: []}
    for query, keys in expected.items():
        np.testing.assert_array_equal(np.flatnonzero(mask[query]), keys)
