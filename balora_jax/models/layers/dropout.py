"""Dropout whose mask is a hash of each element's place: next to no work, so nothing of it is ever kept."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from balora_jax.models.layers.options import Numerics, recomputed


class DropoutKey(nn.Module):
    """A key of its own for every place that drops."""

    def __call__(self) -> jax.Array:
        return self.make_rng("dropout")


def drop(x: jax.Array, rate: float, numerics: Numerics) -> jax.Array:
    """x with a share of its elements zeroed and the rest scaled up, in training; called within a compact method."""
    act = dropping(rate, numerics)
    return x if act is None else act(x)


def dropping(rate: float, numerics: Numerics) -> Callable[[jax.Array], jax.Array] | None:
    """The function that drops at a rate, or None when nothing is dropped; called within a compact method."""
    if not (rate and numerics.training):
        return None
    return recomputed(functools.partial(dropped, key=DropoutKey()(), rate=rate))


def dropped(x: jax.Array, key: jax.Array, rate: float) -> jax.Array:
    """x with a share of its elements zeroed and the rest scaled up (Srivastava et al., JMLR 15, 2014).

    Which ones is a hash of the key and the element's index. jax.random's bits, at twenty rounds an element, take a
    quarter of a small encoder's step; these are fused into what reads them, and the backward pass makes them again.
    The mask is the same however x is laid out over devices.

    Args:
        x: any shape, of fewer than 2**32 elements.
        key: a jax.random key.
        rate: the probability of dropping an element, in [0, 1); kept to 2**-32.

    Returns:
        An array of x's shape and type.
    """
    keep = _hashed(x.shape, jax.random.bits(key, (2,))) >= jnp.uint32(rate * 2**32)
    return jnp.where(keep, x / (1 - rate), 0).astype(x.dtype)


def _hashed(shape: tuple[int, ...], words: jax.Array) -> jax.Array:
    """A uint32 for each element: its index in row-major order, mixed with each word in turn."""
    strides = (math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    axes = (
        jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.uint32(n)
        for axis, n in enumerate(strides)
    )
    return _mixed(_mixed(sum(axes, jnp.uint32(0)) ^ words[0]) ^ words[1])


def _mixed(x: jax.Array) -> jax.Array:
    """A bijection of 32-bit words in which each bit of x moves every bit of the result (Wellons, `lowbias32`)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)
