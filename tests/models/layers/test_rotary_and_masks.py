"""Positions, masks, rotation and attention by themselves."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from balora_jax.models.layers.attention import attend
from balora_jax.models.layers.cache import causal_mask, token_positions
from balora_jax.models.layers.rotary import Rope, inverse_frequencies, rotate, rotation


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
    np.testing.assert_array_equal(
        mask[1:], np.tril(np.ones((4, 4), bool))[1:] & np.asarray(counted)
    )


def test_rotation_depends_on_distance_alone():
    frequencies = inverse_frequencies(Rope(100.0), 8)
    query, key = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, 8))

    def score(at, other):
        turned = [
            rotate(x, *rotation(jnp.asarray([[p]]), frequencies))
            for x, p in ((query, at), (key, other))
        ]
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
    rope = Rope(
        10000.0,
        "llama3",
        factor=8.0,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
        original_max_positions=64,
    )
    plain, ours = inverse_frequencies(Rope(10000.0), 32), inverse_frequencies(rope, 32)
    turns = 64 * plain / (2 * np.pi)
    np.testing.assert_allclose(ours[turns > 4], plain[turns > 4])
    np.testing.assert_allclose(ours[turns < 1], plain[turns < 1] / 8, rtol=1e-6)
    between = (turns > 1) & (turns < 4)
    assert between.any()
    assert ((ours < plain) & (ours > plain / 8))[between].all()


def float64_attention(query, key, value, mask, *, scale, softcap, bias, drop):
    """The formula with keys repeated for their groups, for arrays of float64."""
    groups = query.shape[2] // key.shape[2]
    key, value = jnp.repeat(key, groups, axis=2), jnp.repeat(value, groups, axis=2)
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) * scale
    scores = scores if softcap is None else softcap * jnp.tanh(scores / softcap)
    weights = jnp.where(mask[:, None], jnp.exp(scores + (0 if bias is None else bias)), 0)
    weights = weights / weights.sum(-1, keepdims=True)
    return jnp.einsum("bhqk,bkhd->bqhd", weights if drop is None else drop(weights), value)


@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("dropping", [False, True])
@pytest.mark.parametrize("kv_heads", [1, 2, 6])
def test_attention_and_its_gradients_equal_the_float64_formula(softcap, biased, dropping, kv_heads):
    rng = np.random.default_rng(kv_heads)
    given = [
        rng.normal(size=(2, length, heads, 4))
        for length, heads in ((5, 6), (7, kv_heads), (7, kv_heads))
    ]
    toward, mask = rng.normal(size=(2, 5, 6, 4)), rng.random((2, 5, 7)) < 0.6
    mask[..., 0] = True
    bias = rng.normal(size=(1, 6, 5, 7)) if biased else None
    kept = rng.random((2, 6, 5, 7)) < 0.8
    options = {
        "scale": 0.7,
        "softcap": softcap,
        "drop": (lambda shares: shares * kept / 0.8) if dropping else None,
    }

    def of(attention, dtype):
        arrays = [jnp.asarray(x, dtype) for x in given]
        add = None if bias is None else jnp.asarray(bias, dtype)
        out, backward = jax.vjp(
            lambda *arrays: attention(*arrays, jnp.asarray(mask), bias=add, **options), *arrays
        )
        return jax.tree.map(np.asarray, (out, backward(jnp.asarray(toward, dtype))))

    ours = of(attend, jnp.float32)
    with jax.enable_x64(True):
        expected = of(float64_attention, jnp.float64)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), ours, expected)
