"""Attention over heads, and a decoder's self-attention with rotated queries and keys."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from balora_jax.models.layers.cache import Reach, join
from balora_jax.models.layers.dense import Dense
from balora_jax.models.layers.norms import RMSNorm
from balora_jax.models.layers.options import Numerics, recomputed
from balora_jax.models.layers.rotary import rotate

# Finite, so that a row with nothing to attend to gives an average and not NaN.
MASKED = -0.7 * float(jnp.finfo(jnp.float32).max)


def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: jax.Array,
    *,
    scale: float,
    softcap: float | None = None,
    bias: jax.Array | None = None,
    drop: Callable[[jax.Array], jax.Array] | None = None,
) -> jax.Array:
    """softmax(cap(scale q k^T) + bias) v, the softmax in float32; keys are shared by groups of heads, not repeated.

    The backward pass makes the scores again, so that nothing quadratic in the length is kept.

    Args:
        query: [batch, queries, heads, D].
        key, value: [batch, keys, kv_heads, D]; kv_heads divides heads.
        mask: [batch, queries or 1, keys] bool, True where a key may be seen.
        scale: what the scores are multiplied by.
        softcap: c of c * tanh(scores / c) (Gemma 2, 2408.00118), or None.
        bias: [batch or 1, heads, queries, keys], added to the scores; or None.
        drop: drops some of the attention's shares; or None.

    Returns:
        [batch, queries, heads, D], of the query's type.
    """
    plain = functools.partial(_attend, scale=scale, softcap=softcap, drop=drop)
    return recomputed(plain)(query, key, value, mask, bias)


def _attend(query, key, value, mask, bias, *, scale, softcap, drop):
    """All heads that share a key are rows of one product; `jax.nn.dot_product_attention` can neither cap nor drop."""
    batch, length, heads, size = query.shape
    shape, grouped = (batch, heads, length, key.shape[1]), (batch, key.shape[2], -1)
    rows = query.transpose(0, 2, 1, 3).reshape(*grouped, size)
    scores = scale * _scores(rows, key.transpose(0, 2, 3, 1)).reshape(shape)
    scores = scores if softcap is None else softcap * jnp.tanh(scores / softcap)
    scores = scores if bias is None else scores + bias
    shares = jax.nn.softmax(jnp.where(mask[:, None], scores, MASKED), axis=-1).astype(value.dtype)
    shares = shares if drop is None else drop(shares)
    out = jnp.matmul(shares.reshape(*grouped, shape[-1]), value.transpose(0, 2, 1, 3))
    return out.reshape(batch, heads, length, size).transpose(0, 2, 1, 3)


@jax.custom_vjp
def _scores(query: jax.Array, key: jax.Array) -> jax.Array:
    """[..., rows, D] @ [..., D, keys] in float32, with the key's gradient as query^T @ change.

    Left to itself jax has it as (change^T @ query)^T, and a CPU then copies the scores transposed.
    """
    return jnp.matmul(query, key, preferred_element_type=jnp.float32)


def _scores_forward(query, key):
    return _scores(query, key), (query, key)


def _scores_backward(saved, change):
    query, key = saved
    to_query = jnp.matmul(change, key.mT, preferred_element_type=jnp.float32)
    to_key = jnp.matmul(query.mT, change, preferred_element_type=jnp.float32)
    return to_query.astype(query.dtype), to_key.astype(key.dtype)


_scores.defvjp(_scores_forward, _scores_backward)


def split_heads(x: jax.Array, heads: int) -> jax.Array:
    """[batch, length, heads * D] -> [batch, length, heads, D]."""
    return x.reshape(*x.shape[:-1], heads, -1)


def merge_heads(x: jax.Array) -> jax.Array:
    """[batch, length, heads, D] -> [batch, length, heads * D]."""
    return x.reshape(*x.shape[:-2], -1)


class Attention(nn.Module):
    """Self-attention of a decoder's layer, with rotated queries and keys."""

    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    softcap: float | None
    qkv_bias: bool
    out_bias: bool
    # Normalizes each query and key before the rotation (Qwen 3); the norm's epsilon, or None.
    qk_norm_eps: float | None
    numerics: Numerics

    @nn.compact
    def __call__(self, x: jax.Array, turn: tuple, reach: Reach, past: tuple | None = None):
        """Args: x [batch, queries, d]; turn: cosines and sines; past: this layer's keys and values in the cache.

        Returns: [batch, queries, d] and the new keys and values [batch, queries, kv_heads, D].
        """
        query = self._project(x, "q", self.heads)
        key = self._project(x, "k", self.kv_heads)
        value = self._project(x, "v", self.kv_heads)
        if self.qk_norm_eps is not None:
            query = RMSNorm(self.qk_norm_eps, self.numerics, name="q_norm")(query)
            key = RMSNorm(self.qk_norm_eps, self.numerics, name="k_norm")(key)
        query, key = rotate(query, *turn), rotate(key, *turn)
        keys, values = (key, value) if past is None else join(past, key, value, reach.length)
        out = attend(query, keys, values, reach.mask, scale=self.scale, softcap=self.softcap)
        return Dense(x.shape[-1], self.numerics, self.out_bias, name="o_proj")(merge_heads(out)), (
            key,
            value,
        )

    def _project(self, x: jax.Array, letter: str, heads: int) -> jax.Array:
        dense = Dense(heads * self.head_dim, self.numerics, self.qkv_bias, name=f"{letter}_proj")
        return split_heads(dense(x), heads)
