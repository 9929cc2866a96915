"""Rotary position embedding: its algebra and the scaling of its frequencies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from balora_jax.models.layers.rotary import (
    Rope,
    cosines_and_sines,
    inverse_frequencies,
    rotate,
    rotation,
)


def test_rotation_depends_on_distance_alone():
    frequencies = inverse_frequencies(Rope(100.0), 8)
    query, key = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, 8))

    def rotated(x, position):
        return rotate(x, *cosines_and_sines(jnp.asarray([[position]]), frequencies))

    def score(query_position, key_position):
        return float(jnp.sum(rotated(query, query_position) * rotated(key, key_position)))

    assert score(3, 1) == pytest.approx(score(13, 11), abs=1e-5)
    assert abs(score(3, 1) - score(3, 2)) > 1e-3


def test_rotation_equals_complex_multiplication():
    frequencies = inverse_frequencies(Rope(10000.0), 6)
    x = np.random.default_rng(0).normal(size=(1, 4, 2, 6))
    positions = np.arange(4)[None]
    angles = positions[..., None, None] * frequencies
    expected = (x[..., :3] + 1j * x[..., 3:]) * np.exp(1j * angles)
    rotation = cosines_and_sines(jnp.asarray(positions), frequencies)
    ours = rotate(jnp.asarray(x, jnp.float32), *rotation)
    np.testing.assert_allclose(ours, np.concatenate([expected.real, expected.imag], -1), atol=1e-5)


def test_llama3_keeps_high_and_scales_low_frequencies():
    rope = Rope(
        10000.0,
        "llama3",
        factor=8.0,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
        original_max_positions=64,
    )
    plain = inverse_frequencies(Rope(10000.0), 32)
    ours = inverse_frequencies(rope, 32)
    periods = 64 * plain / (2 * np.pi)
    np.testing.assert_allclose(ours[periods > 4], plain[periods > 4])
    np.testing.assert_allclose(ours[periods < 1], plain[periods < 1] / 8, rtol=1e-6)
    between = (periods > 1) & (periods < 4)
    assert between.any()
    assert ((ours < plain) & (ours > plain / 8))[between].all()


def test_no_rotation_and_the_rest_of_a_head_are_exact():
    x = jax.random.normal(jax.random.key(0), (1, 5, 2, 8))
    positions = jnp.arange(5)[None]
    np.testing.assert_array_equal(rotate(x, *rotation(None, 8, positions, None)), x)
    part = rotate(x, *rotation(Rope(100.0), 4, positions, None))
    np.testing.assert_array_equal(part[..., 4:], x[..., 4:])
    alone = rotate(x[..., :4], *rotation(Rope(100.0), 4, positions, None))
    np.testing.assert_array_equal(part[..., :4], alone)


def test_longrope_chooses_by_the_length_of_the_text():
    rope = Rope(
        100.0,
        "longrope",
        original_max_positions=6,
        short_factors=(1.0, 2.0),
        long_factors=(4.0, 8.0),
        attention_factor=1.5,
    )
    positions = jnp.arange(3)[None]
    plain = inverse_frequencies(Rope(100.0), 4)
    for length, factors in ((6, (1, 2)), (7, (4, 8))):
        cosines, sines = rotation(rope, 4, positions, jnp.asarray([[length]]))
        angles = np.arange(3)[:, None] * plain / np.asarray(factors)
        np.testing.assert_allclose(cosines[0, :, 0], 1.5 * np.cos(angles), rtol=1e-6)
        np.testing.assert_allclose(sines[0, :, 0], 1.5 * np.sin(angles), rtol=1e-6)
