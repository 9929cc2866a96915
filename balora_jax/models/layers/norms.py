"""Norms, computed in float32; the backward pass makes them again from their arguments."""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

from balora_jax.models.layers.options import Numerics, recomputed


class LayerNorm(nn.Module):
    """(x - mean) / deviation * scale + bias (Ba et al., 1607.06450), in float32, the variance taken about the mean."""

    eps: float
    numerics: Numerics

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape, dtype = (x.shape[-1],), self.numerics.param_dtype
        scale = self.param("scale", nn.initializers.ones, shape, dtype)
        bias = self.param("bias", nn.initializers.zeros, shape, dtype)
        return recomputed(functools.partial(layer_normed, eps=self.eps))(x, scale, bias).astype(
            self.numerics.dtype
        )


def layer_normed(x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float) -> jax.Array:
    """x [..., d] about its mean and over its deviation, times the scale [d] and plus the bias [d]; float32."""
    x = x.astype(jnp.float32)
    x = x - jnp.mean(x, axis=-1, keepdims=True)
    x = x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + eps)
    return x * scale.astype(jnp.float32) + bias.astype(jnp.float32)


class RMSNorm(nn.Module):
    """x / rms(x) * (offset + scale), computed in float32 (Zhang and Sennrich, 1910.07467); offset 1 is Gemma's."""

    eps: float
    numerics: Numerics
    offset: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        start = nn.initializers.constant(1.0 - self.offset)
        scale = self.param("scale", start, (x.shape[-1],), self.numerics.param_dtype)
        return recomputed(self._normed)(x, scale)

    def _normed(self, x: jax.Array, scale: jax.Array) -> jax.Array:
        x = x.astype(jnp.float32)
        x = x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + self.eps)
        return (x * (self.offset + scale.astype(jnp.float32))).astype(self.numerics.dtype)
