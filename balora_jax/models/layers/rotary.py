"""Rotary position embedding (Su et al., arXiv 2104.09864) with two ways of scaling its angles."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np


@dataclass(frozen=True)
class Rope:
    """The rotation's frequencies: its base and how they are scaled for longer texts.

    Attributes:
      theta: the base of the frequencies.
      kind: "default" (not scaled), "linear" (all scaled) or "llama3" (low ones scaled).
      factor: what scaled frequencies are divided by.
      low_freq_factor: llama3: frequencies with fewer periods than this in the original length are
        scaled in full.
      high_freq_factor: llama3: frequencies with more periods than this are not scaled.
      original_max_positions: llama3: the length before scaling, in tokens.
    """

    theta: float
    kind: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_positions: int = 8192


def inverse_frequencies(rope: Rope, head_dim: int) -> np.ndarray:
    """Compute the angle by which each pair of a head's dimensions turns from token to token.

    Args:
      rope: the rotation.
      head_dim: D, the size of a head.

    Returns:
      [D / 2] float32, radians a position.
    """
    exponents = np.arange(0, head_dim, 2, dtype=np.float64) / head_dim
    frequencies = rope.theta**-exponents
    if rope.kind == "linear":
        frequencies = frequencies / rope.factor
    if rope.kind == "llama3":
        frequencies = _scale_low_frequencies(frequencies, rope)
    return frequencies.astype(np.float32)


def _scale_low_frequencies(frequencies: np.ndarray, rope: Rope) -> np.ndarray:
    """Divide low frequencies by the factor, keep high ones, and interpolate between (Llama 3)."""
    periods = rope.original_max_positions * frequencies / (2 * math.pi)
    kept = (periods - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    kept = np.clip(kept, 0.0, 1.0)
    return kept * frequencies + (1 - kept) * frequencies / rope.factor


def cosines_and_sines(positions: jax.Array, frequencies: np.ndarray) -> tuple[jax.Array, jax.Array]:
    """Compute the cosine and the sine of each position's angles.

    Args:
      positions: [batch, length] int32.
      frequencies: [D / 2] float32, radians a position.

    Returns:
      Two arrays [batch, length, 1, D / 2], float32.
    """
    angles = positions[..., None, None].astype(jnp.float32) * frequencies
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x: jax.Array, cosines: jax.Array, sines: jax.Array) -> jax.Array:
    """Rotate the pairs (x_i, x_{i + D/2}) of every head by its position's angles.

    Args:
      x: [batch, length, heads, D].
      cosines: [batch, length, 1, D / 2] float32.
      sines: [batch, length, 1, D / 2] float32.

    Returns:
      An array of x's shape and element type.
    """
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    rotated_first = first * cosines - second * sines
    rotated_second = second * cosines + first * sines
    return jnp.concatenate((rotated_first, rotated_second), axis=-1).astype(x.dtype)
