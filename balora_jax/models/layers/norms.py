"""Layer norm and RMS norm, computed in float32 and recomputed in the backward pass."""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

from balora_jax.models.layers.options import LayerOptions
from balora_jax.models.layers.recompute import recomputed


class LayerNorm(nn.Module):
    """Layer norm with scale and bias (Ba et al., arXiv 1607.06450).

    Attributes:
      eps: added to the variance.
      options: the model's layer options.
    """

    eps: float
    options: LayerOptions

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalize the last axis; any shape."""
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape, self.options.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, shape, self.options.param_dtype)
        normalize = recomputed(functools.partial(layer_norm, eps=self.eps))
        return normalize(x, scale, bias).astype(self.options.dtype)


def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float) -> jax.Array:
    """Compute (x - mean) / sqrt(variance + eps) * scale + bias along the last axis.

    Args:
      x: [..., d].
      scale: [d].
      bias: [d].
      eps: added to the variance, which is the mean square of the centered x.

    Returns:
      [..., d] float32.
    """
    x = x.astype(jnp.float32)
    x = x - jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
    x = x * jax.lax.rsqrt(variance + eps)
    return x * scale.astype(jnp.float32) + bias.astype(jnp.float32)


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * (offset + scale) (Zhang and Sennrich, arXiv 1910.07467).

    Attributes:
      eps: added to the mean square.
      options: the model's layer options.
      offset: added to the scale: 1 in Gemma, 0 elsewhere.
    """

    eps: float
    options: LayerOptions
    offset: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalize the last axis; any shape."""
        scale_init = nn.initializers.constant(1.0 - self.offset)
        scale = self.param("scale", scale_init, (x.shape[-1],), self.options.param_dtype)
        return recomputed(self._normalize)(x, scale)

    def _normalize(self, x: jax.Array, scale: jax.Array) -> jax.Array:
        x = x.astype(jnp.float32)
        mean_square = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
        x = x * jax.lax.rsqrt(mean_square + self.eps)
        return (x * (self.offset + scale.astype(jnp.float32))).astype(self.options.dtype)
