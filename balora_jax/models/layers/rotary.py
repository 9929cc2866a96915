"""Rotary position embedding (Su et al., 2104.09864), with Llama 3's and the linear stretching of its angles."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np


@dataclass(frozen=True)
class Rope:
    """How positions become angles; the fields after `factor` are Llama 3's alone."""

    theta: float
    kind: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_positions: int = 8192


def inverse_frequencies(rope: Rope, head_dim: int) -> np.ndarray:
    """Radians a position, for each pair of a head's dimensions.

    Args:
        rope: the kind of rotation.
        head_dim: D, the size of a head.

    Returns:
        [D / 2] float32.
    """
    frequencies = rope.theta ** -(np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    if rope.kind == "linear":
        frequencies = frequencies / rope.factor
    if rope.kind == "llama3":
        frequencies = _llama3(frequencies, rope)
    return frequencies.astype(np.float32)


def _llama3(frequencies: np.ndarray, rope: Rope) -> np.ndarray:
    """Slow angles are divided by the factor, fast ones kept, those between blended."""
    turns = rope.original_max_positions * frequencies / (2 * math.pi)
    kept = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    kept = np.clip(kept, 0.0, 1.0)
    return kept * frequencies + (1 - kept) * frequencies / rope.factor


def rotation(positions: jax.Array, frequencies: np.ndarray) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines of each position's angles.

    Args:
        positions: [batch, length] int32.
        frequencies: [D / 2] float32.

    Returns:
        Two arrays [batch, length, 1, D / 2], float32.
    """
    angles = positions[..., None, None].astype(jnp.float32) * frequencies
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x: jax.Array, cosines: jax.Array, sines: jax.Array) -> jax.Array:
    """Turns the pairs (x_i, x_{i + D/2}) of every head by its position's angles.

    Args:
        x: [batch, length, heads, D].
        cosines, sines: [batch, length, 1, D / 2] float32.

    Returns:
        The shape and type of x.
    """
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = (first * cosines - second * sines, second * cosines + first * sines)
    return jnp.concatenate(turned, axis=-1).astype(x.dtype)
