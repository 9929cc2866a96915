"""The SVD term without the vocabulary.

Z = H W^T with a frozen W = Q R has the singular values of H R^T, and |Z|_F = |H R^T|_F: [tokens, d] instead of
[tokens, V]. Exact for a linear head, also with a bias; not under a logit soft-cap, nor for a
head that is trained.
"""

from typing import Literal

import chex
import jax
import jax.numpy as jnp

from balora_jax.linalg.leading import Method, leading_sum, product
from balora_jax.linalg.singular_values import frobenius_norm, ratio, singular_values
from balora_jax.models.head import Head
from balora_jax.regularizers import nlg


def head_factor(head: Head) -> jax.Array:
    """R of W = Q R, once a run: the head as the SVD term sees it.

    Args:
      head: kernel [d, V]; a bias becomes one more row of it (and 1 one more entry of every hidden state).

    Returns:
      [d, d], or [d + 1, d + 1] with a bias; float32, upper triangular.

    Raises:
      AssertionError: the head has a soft-cap, so no such factor exists.
    """
    assert head.softcap is None, (
        "a soft-capped head has no factor: its logits are not linear in the hidden states"
    )
    rows = head.kernel.T if head.bias is None else jnp.concatenate([head.kernel, head.bias[None]]).T
    vocabulary, width = rows.shape
    # In blocks, so that no float32 copy of a large head is made.
    blocks = jnp.pad(rows, [(0, -vocabulary % width), (0, 0)]).reshape(-1, width, width)

    def stack(factor: jax.Array, block: jax.Array) -> tuple[jax.Array, None]:
        return jnp.linalg.qr(jnp.concatenate([factor, block.astype(jnp.float32)]), mode="r"), None

    return jax.lax.scan(stack, jnp.zeros((width, width), jnp.float32), blocks)[0]


def leading_share(
    hidden: jax.Array,
    factor: jax.Array,
    mask: jax.Array,
    *,
    k: int,
    norm: Literal["frobenius", "nuclear"] = "frobenius",
    method: Method = "subspace",
    groups: int = 1,
) -> jax.Array:
    """The SVD term of BA-LoRA for NLG (`regularizers.nlg.svd`), from hidden states.

    Args:
      hidden: [..., d], the student's.
      factor: [d, d] or [d + 1, d + 1], from `head_factor`; gets no gradient.
      mask: [...], True where counted.
      k: how many singular values lead.
      norm: what their sum is divided by; nuclear takes a whole decomposition of [tokens, d].
      method: how the leading ones are found; see `leading_triplets`.
      groups: the term is the mean over so many equal parts of the batch, each with its own matrix. 1: the whole
        batch given, however many devices hold it; the number of devices: the official code's per-device reading.

    Returns:
      [], float32.

    Raises:
      AssertionError: when shapes do not fit.
    """
    return _term((k, norm, method, groups), hidden, factor, mask)


def _value(settings: tuple, hidden: jax.Array, factor: jax.Array, mask: jax.Array) -> jax.Array:
    rows = nlg.counted_logits(hidden, mask)
    if factor.shape[0] == hidden.shape[-1] + 1:
        rows = jnp.concatenate([rows, mask[..., None].astype(jnp.float32)], axis=-1)
    chex.assert_axis_dimension(factor, 0, rows.shape[-1])
    return _mean_share(product(rows, factor.T), *settings)


_term = jax.custom_vjp(_value, nondiff_argnums=(0,))


def _forward(settings, hidden, factor, mask):
    # The gradient is formed at once: kept in the states' type it is smaller than what it is made from.
    value, pull = jax.vjp(lambda states: _value(settings, states, factor, mask), hidden)
    return value, pull(jnp.float32(1.0))[0]


def _backward(settings, gradient, scale):
    return (scale * gradient).astype(gradient.dtype), None, None


_term.defvjp(_forward, _backward)


def leading_share_of_logits(
    logits: jax.Array,
    mask: jax.Array,
    *,
    k: int,
    norm: Literal["frobenius", "nuclear"] = "frobenius",
    method: Method = "subspace",
    groups: int = 1,
) -> jax.Array:
    """The SVD term of a head that has no factor (soft-capped, or trained): from whole logits [..., V].

    It holds [tokens, V] a few times. Arguments and result are those of `leading_share`.
    """
    return _mean_share(nlg.counted_logits(logits, mask), k, norm, method, groups)


def _mean_share(rows: jax.Array, k: int, norm: str, method: Method, groups: int) -> jax.Array:
    chex.assert_is_divisible(rows.size // rows.shape[-1], groups)
    matrices = rows.reshape(groups, -1, rows.shape[-1])
    return jnp.mean(jax.vmap(lambda matrix: _share(matrix, k, norm, method))(matrices))


def _share(matrix: jax.Array, k: int, norm: str, method: Method) -> jax.Array:
    if norm == "frobenius":
        return -ratio(leading_sum(matrix, k, method), frobenius_norm(matrix))
    values = singular_values(matrix)
    return -ratio(jnp.sum(values[:k]), jnp.sum(values))
