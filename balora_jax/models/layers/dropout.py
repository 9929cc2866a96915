"""Dropout whose mask is a hash of each element's index, so cheap that no mask is ever kept."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from balora_jax.models.layers.options import LayerOptions
from balora_jax.models.layers.recompute import recomputed


class DropoutKey(nn.Module):
    """A submodule without parameters, so that every use of dropout has a key of its own.

    Its name is part of the key: renaming the class would change every mask.
    """

    def __call__(self) -> jax.Array:
        """Draw this use's key."""
        return self.make_rng("dropout")


def dropout(x: jax.Array, rate: float, options: LayerOptions) -> jax.Array:
    """Drop elements of `x` in training; to be called within a compact method.

    Args:
      x: any shape.
      rate: probability of dropping an element.
      options: the model's layer options, of which `training` counts.

    Returns:
      An array of x's shape and element type.
    """
    function = dropout_function(rate, options)
    if function is None:
        return x
    return function(x)


def dropout_function(rate: float, options: LayerOptions) -> Callable[[jax.Array], jax.Array] | None:
    """Draw a key and return the dropout with it; to be called within a compact method.

    Args:
      rate: probability of dropping an element.
      options: the model's layer options, of which `training` counts.

    Returns:
      A pure function of an array, or None if nothing is dropped.
    """
    if not (rate and options.training):
        return None
    key = DropoutKey()()
    return recomputed(functools.partial(hash_dropout, key=key, rate=rate))


def hash_dropout(x: jax.Array, key: jax.Array, rate: float) -> jax.Array:
    """Zero a share of the elements and scale up the rest (Srivastava et al., JMLR 15, 2014).

    A hash of the key and of the element's index decides. The random bits of jax.random, at twenty
    rounds an element, take a quarter of a small encoder's step; the hash is fused into its reader,
    and the backward pass recomputes it. The mask does not depend on how x is laid out over devices.

    Args:
      x: any shape, of fewer than 2**32 elements.
      key: a jax.random key.
      rate: probability of dropping an element, in [0, 1); resolved to 2**-32.

    Returns:
      An array of x's shape and element type.
    """
    threshold = jnp.uint32(rate * 2**32)
    keep = _hashed_indices(x.shape, jax.random.bits(key, (2,))) >= threshold
    return jnp.where(keep, x / (1 - rate), 0).astype(x.dtype)


def _hashed_indices(shape: tuple[int, ...], words: jax.Array) -> jax.Array:
    """Hash every element's index in row-major order, with each of two words.

    Args:
      shape: of the array.
      words: [2] uint32.

    Returns:
      An array of that shape, uint32.
    """
    index = jnp.uint32(0)
    for axis in range(len(shape)):
        stride = jnp.uint32(math.prod(shape[axis + 1 :]))
        index = index + jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * stride
    hashed = _mix_bits(index ^ words[0])
    return _mix_bits(hashed ^ words[1])


def _mix_bits(x: jax.Array) -> jax.Array:
    """Permute the 32-bit words so that each input bit affects every output bit.

    Wellons' `lowbias32` hash.
    """
    x = x ^ (x >> 16)
    x = x * jnp.uint32(0x7FEB352D)
    x = x ^ (x >> 15)
    x = x * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)
