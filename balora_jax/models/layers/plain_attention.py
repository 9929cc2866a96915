"""Attention by its definition: all scores at once."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from balora_jax.models.layers.mask import AttentionMask
from balora_jax.models.layers.recompute import recomputed

# Finite, so that the softmax of a row without any allowed key is a mean and not NaN.
MASKED_SCORE = -0.7 * float(jnp.finfo(jnp.float32).max)


def attend_plainly(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: AttentionMask,
    *,
    scale: float,
    softcap: float | None = None,
    bias: jax.Array | None = None,
    dropout: Callable[[jax.Array], jax.Array] | None = None,
) -> jax.Array:
    """Compute softmax(cap(scale q k^T) + bias) v, the softmax in float32.

    Scaled dot-product attention (Vaswani et al., arXiv 1706.03762, equation 1). Groups of heads
    share a key without a copy of it (Ainslie et al., arXiv 2305.13245). The backward pass
    recomputes the scores, so nothing quadratic in the length is kept.

    Args:
      query: [batch, queries, heads, D].
      key: [batch, keys, kv_heads, D]; kv_heads divides heads.
      value: [batch, keys, kv_heads, D].
      mask: the keys each query may attend to.
      scale: factor of the scores, usually D ** -0.5.
      softcap: c of c * tanh(scores / c) (Gemma 2, arXiv 2408.00118, section 2), or None.
      bias: [batch or 1, heads, queries, keys] float32, added to the scores; or None.
      dropout: a function that drops elements of the attention weights; or None.

    Returns:
      [batch, queries, heads, D], of the value's element type.
    """
    attention = functools.partial(_attend, scale=scale, softcap=softcap, dropout=dropout)
    return recomputed(attention)(query, key, value, mask, bias)


def _attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: AttentionMask,
    bias: jax.Array | None,
    *,
    scale: float,
    softcap: float | None,
    dropout: Callable[[jax.Array], jax.Array] | None,
) -> jax.Array:
    """Compute attention with all heads that share a key as rows of one product.

    `jax.nn.dot_product_attention` offers neither a soft cap nor dropout.
    """
    batch, queries, heads, head_dim = query.shape
    keys = key.shape[1]
    kv_heads = key.shape[2]

    # Scores.
    rows = query.transpose(0, 2, 1, 3).reshape(batch, kv_heads, -1, head_dim)
    scores = scale * _scores(rows, key.transpose(0, 2, 3, 1)).reshape(batch, heads, queries, keys)
    if softcap is not None:
        scores = softcap * jnp.tanh(scores / softcap)
    if bias is not None:
        scores = scores + bias

    # Weights.
    allowed = mask.dense()[:, None]
    weights = jax.nn.softmax(jnp.where(allowed, scores, MASKED_SCORE), axis=-1)
    weights = weights.astype(value.dtype)
    if dropout is not None:
        weights = dropout(weights)

    # Weighted mean of the values.
    grouped_weights = weights.reshape(batch, kv_heads, -1, keys)
    output = jnp.matmul(grouped_weights, value.transpose(0, 2, 1, 3))
    return output.reshape(batch, heads, queries, head_dim).transpose(0, 2, 1, 3)


@jax.custom_vjp
def _scores(query: jax.Array, key: jax.Array) -> jax.Array:
    """Multiply queries and keys in float32, with the key's gradient as query^T @ gradient.

    The default gradient is (gradient^T @ query)^T, for which a CPU copies the scores transposed.

    Args:
      query: [..., rows, D].
      key: [..., D, keys].

    Returns:
      [..., rows, keys] float32.
    """
    return jnp.matmul(query, key, preferred_element_type=jnp.float32)


def _scores_forward(query, key):
    return _scores(query, key), (query, key)


def _scores_backward(saved, gradient):
    query, key = saved
    query_gradient = jnp.matmul(gradient, key.mT, preferred_element_type=jnp.float32)
    key_gradient = jnp.matmul(query.mT, gradient, preferred_element_type=jnp.float32)
    return query_gradient.astype(query.dtype), key_gradient.astype(key.dtype)


_scores.defvjp(_scores_forward, _scores_backward)
