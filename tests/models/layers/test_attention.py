"""Attention and its gradients against the formula in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from balora_jax.models.layers.attention import attend


@struct.dataclass
class AnyMask:
    """A mask of any pattern, in place of an AttentionMask."""

    allowed: jax.Array
    window = None

    def dense(self) -> jax.Array:
        return self.allowed


def float64_attention(query, key, value, mask, *, scale, softcap, bias, dropout):
    """The formula with keys repeated for their groups, for arrays of float64."""
    groups = query.shape[2] // key.shape[2]
    key = jnp.repeat(key, groups, axis=2)
    value = jnp.repeat(value, groups, axis=2)

    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) * scale
    if softcap is not None:
        scores = softcap * jnp.tanh(scores / softcap)
    if bias is not None:
        scores = scores + bias

    weights = jnp.where(mask.dense()[:, None], jnp.exp(scores), 0)
    weights = weights / weights.sum(-1, keepdims=True)
    if dropout is not None:
        weights = dropout(weights)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, value)


@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("dropping", [False, True])
@pytest.mark.parametrize("kv_heads", [1, 2, 6])
def test_attention_and_its_gradients_equal_the_float64_formula(softcap, biased, dropping, kv_heads):
    rng = np.random.default_rng(kv_heads)
    inputs = [
        rng.normal(size=(2, length, heads, 4))
        for length, heads in ((5, 6), (7, kv_heads), (7, kv_heads))
    ]
    cotangent = rng.normal(size=(2, 5, 6, 4))
    allowed = rng.random((2, 5, 7)) < 0.6
    allowed[..., 0] = True
    bias = rng.normal(size=(1, 6, 5, 7)) if biased else None
    kept = rng.random((2, 6, 5, 7)) < 0.8
    dropout = (lambda weights: weights * kept / 0.8) if dropping else None

    def output_and_gradients(attention, dtype):
        def attended(*arrays):
            return attention(
                *arrays,
                AnyMask(jnp.asarray(allowed)),
                scale=0.7,
                softcap=softcap,
                bias=None if bias is None else jnp.asarray(bias, dtype),
                dropout=dropout,
            )

        arrays = [jnp.asarray(array, dtype) for array in inputs]
        output, backward = jax.vjp(attended, *arrays)
        return jax.tree.map(np.asarray, (output, backward(jnp.asarray(cotangent, dtype))))

    ours = output_and_gradients(attend, jnp.float32)
    with jax.enable_x64(True):
        expected = output_and_gradients(float64_attention, jnp.float64)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), ours, expected)
