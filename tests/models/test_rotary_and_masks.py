"""Positions, masks, rotation and attention by themselves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from balora_jax.models.attention import attend
from balora_jax.models.cache import causal_mask, token_positions
from balora_jax.models.rotary import Rope, inverse_frequencies, rotate, rotation


@pytest.mark.parametrize(
    ("mask", "positions"),
    [
        ([1, 1, 1, 1], [0, 1, 2, 3]),
        ([0, 0, 1, 1], [0, 0, 0, 1]),
        ([1, 1, 0, 0], [0, 1, 1, 1]),
        ([0, 0, 0, 0], [0, 0, 0, 0]),
    ],
)
def test_positions_count_what_counts(mask, positions):
    np.testing.assert_array_equal(token_positions(jnp.asarray([mask], bool))[0], positions)


def test_a_query_sees_counted_keys_up_to_itself():
    counted = jnp.asarray([[False, True, True, True]])
    positions = token_positions(counted)
    mask = causal_mask(positions, positions, counted)[0]
    np.testing.assert_array_equal(mask[1:], np.tril(np.ones((4, 4), bool))[1:] & np.asarray(counted))


def test_rotation_depends_on_distance_alone():
    frequencies = inverse_frequencies(Rope(100.0), 8)
    query, key = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, 8))

    def score(at, other):
        turned = [rotate(x, *rotation(jnp.asarray([[p]]), frequencies)) for x, p in ((query, at), (key, other))]
        return float(jnp.sum(turned[0] * turned[1]))

    assert score(3, 1) == pytest.approx(score(13, 11), abs=1e-5)
    assert abs(score(3, 1) - score(3, 2)) > 1e-3


def test_rotation_equals_complex_multiplication():
    frequencies = inverse_frequencies(Rope(10000.0), 6)
    x = np.random.default_rng(0).normal(size=(1, 4, 2, 6))
    positions = np.arange(4)[None]
    turned = (x[..., :3] + 1j * x[..., 3:]) * np.exp(1j * positions[..., None, None] * frequencies)
    ours = rotate(jnp.asarray(x, jnp.float32), *rotation(jnp.asarray(positions), frequencies))
    np.testing.assert_allclose(ours, np.concatenate([turned.real, turned.imag], -1), atol=1e-5)


def test_llama3_keeps_fast_and_stretches_slow_angles():
    rope = Rope(10000.0, "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_positions=64)
    plain, ours = inverse_frequencies(Rope(10000.0), 32), inverse_frequencies(rope, 32)
    turns = 64 * plain / (2 * np.pi)
    np.testing.assert_allclose(ours[turns > 4], plain[turns > 4])
    np.testing.assert_allclose(ours[turns < 1], plain[turns < 1] / 8, rtol=1e-6)
    between = (turns > 1) & (turns < 4)
    assert between.any()
    assert ((ours < plain) & (ours > plain / 8))[between].all()


@pytest.mark.parametrize("softcap", [None, 1.5])
def test_attention_equals_float64_formula(softcap):
    rng = np.random.default_rng(0)
    query, key, value = (rng.normal(size=(2, 5, heads, 4)) for heads in (6, 2, 2))
    mask = rng.random((2, 5, 5)) < 0.6
    mask[..., 0] = True
    scores = np.einsum("bqhd,bkhd->bhqk", query, key.repeat(3, axis=2)) * 0.7
    scores = scores if softcap is None else softcap * np.tanh(scores / softcap)
    weights = np.where(mask[:, None], np.exp(scores), 0)
    weights /= weights.sum(-1, keepdims=True)
    expected = np.einsum("bhqk,bkhd->bqhd", weights, value.repeat(3, axis=2))
    given = [jnp.asarray(x, jnp.float32) for x in (query, key, value)]
    ours = attend(*given, jnp.asarray(mask), scale=0.7, softcap=softcap)
    np.testing.assert_allclose(ours, expected, atol=1e-5)
