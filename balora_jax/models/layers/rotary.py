"""Rotary position embedding (Su et al., arXiv 2104.09864) and the ways of scaling its angles."""

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
      kind: "default" (not scaled), "linear" (all scaled), "llama3" (low ones scaled) or "longrope"
        (each scaled by a factor of its own).
      factor: what scaled frequencies are divided by.
      low_freq_factor: llama3: frequencies with fewer periods than this in the original length are
        scaled in full.
      high_freq_factor: llama3: frequencies with more periods than this are not scaled.
      original_max_positions: llama3, longrope: the length before scaling, in tokens.
      short_factors: longrope: for each frequency, what it is divided by in texts of the original
        length.
      long_factors: longrope: likewise in longer texts.
      attention_factor: longrope: factor of the rotated queries and keys.
    """

    theta: float
    kind: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_positions: int = 8192
    short_factors: tuple[float, ...] = ()
    long_factors: tuple[float, ...] = ()
    attention_factor: float = 1.0


def inverse_frequencies(rope: Rope, rotary_dim: int, *, long: bool = False) -> np.ndarray:
    """Compute the angle by which each pair of a head's dimensions turns from token to token.

    Args:
      rope: the rotation.
      rotary_dim: R, the dimensions of a head that are rotated.
      long: longrope: True for texts beyond the original length.

    Returns:
      [R / 2] float32, radians a position.
    """
    exponents = np.arange(0, rotary_dim, 2, dtype=np.float64) / rotary_dim
    frequencies = rope.theta**-exponents
    if rope.kind == "linear":
        frequencies = frequencies / rope.factor
    if rope.kind == "llama3":
        frequencies = _scale_low_frequencies(frequencies, rope)
    if rope.kind == "longrope":
        frequencies = frequencies / np.asarray(rope.long_factors if long else rope.short_factors)
    return frequencies.astype(np.float32)


def _scale_low_frequencies(frequencies: np.ndarray, rope: Rope) -> np.ndarray:
    """Divide low frequencies by the factor, keep high ones, and interpolate between (Llama 3)."""
    periods = rope.original_max_positions * frequencies / (2 * math.pi)
    kept = (periods - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    kept = np.clip(kept, 0.0, 1.0)
    return kept * frequencies + (1 - kept) * frequencies / rope.factor


def rotation(
    rope: Rope | None, rotary_dim: int, positions: jax.Array, lengths: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """Compute the cosine and the sine of each position's angles.

    Args:
      rope: the rotation; None for none, by angles of 0 (Yang et al., arXiv 2501.18795).
      rotary_dim: R, the dimensions of a head that are rotated.
      positions: [batch, length] int32.
      lengths: [batch, 1 or length] int32, the tokens of each position's text, on which longrope's
        factors depend (Ding et al., arXiv 2402.13753); None without longrope.

    Returns:
      Two arrays [batch, length, 1, R / 2], float32.
    """
    if rope is None:
        frequencies = np.zeros(rotary_dim // 2, np.float32)
        return cosines_and_sines(positions, frequencies)
    if rope.kind != "longrope":
        return cosines_and_sines(positions, inverse_frequencies(rope, rotary_dim))
    is_long = lengths[..., None, None] > rope.original_max_positions
    short = inverse_frequencies(rope, rotary_dim)
    long = inverse_frequencies(rope, rotary_dim, long=True)
    cosines, sines = cosines_and_sines(positions, jnp.where(is_long, long, short))
    return rope.attention_factor * cosines, rope.attention_factor * sines


def cosines_and_sines(
    positions: jax.Array, frequencies: np.ndarray | jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Compute the cosine and the sine of each position's angles.

    Args:
      positions: [batch, length] int32.
      frequencies: [R / 2] or [batch, 1 or length, 1, R / 2] float32, radians a position.

    Returns:
      Two arrays [batch, length, 1, R / 2], float32.
    """
    angles = positions[..., None, None].astype(jnp.float32) * frequencies
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x: jax.Array, cosines: jax.Array, sines: jax.Array) -> jax.Array:
    """Rotate the pairs (x_i, x_{i + R/2}) of every head by its position's angles.

    Args:
      x: [batch, length, heads, D].
      cosines: [batch, length, 1, R / 2] float32; dimensions of a head from R on are not rotated.
      sines: [batch, length, 1, R / 2] float32.

    Returns:
      An array of x's shape and element type.
    """
    half = cosines.shape[-1]
    first, second, rest = jnp.split(x.astype(jnp.float32), (half, 2 * half), axis=-1)
    rotated_first = first * cosines - second * sines
    rotated_second = second * cosines + first * sines
    rotated = jnp.concatenate((rotated_first, rotated_second, rest), axis=-1)
    return rotated.astype(x.dtype)
