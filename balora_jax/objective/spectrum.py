"""The SVD term of a language model from hidden states, without the logits [tokens, V].

With a frozen head W = Q R, the logits Z = H W^T have the singular values of H R^T [tokens, d], and
|Z|_F = |H R^T|_F. This is exact for a linear head, with or without a bias. It does not hold for a
head with a logit soft-cap, nor for a trained head, whose R changes.
"""

from typing import Literal

import chex
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from balora_jax.linalg.leading import Method, checked_sum
from balora_jax.linalg.precise import product
from balora_jax.linalg.singular_values import frobenius_norm, ratio, singular_values
from balora_jax.linalg.tall import parts_of
from balora_jax.models.head import Head
from balora_jax.regularizers import nlg


def head_factor(head: Head) -> jax.Array:
    """Compute R of the head W = Q R; a run computes it once.

    Args:
      head: the frozen head, with kernel [d, V]. A bias counts as one more row of the kernel, and
        every hidden state gets 1 as one more entry.

    Returns:
      [d, d], or [d + 1, d + 1] with a bias; float32, upper triangular.

    Raises:
      AssertionError: the head has a soft-cap, and so no such factor.
    """
    assert head.softcap is None, (
        "a soft-capped head has no factor: its logits are not linear in the hidden states"
    )
    kernel = head.kernel
    if head.bias is not None:
        kernel = jnp.concatenate([kernel, head.bias[None]])
    rows = kernel.T
    vocabulary, width = rows.shape
    # Block by block, so that no float32 copy of a large head is made.
    blocks = jnp.pad(rows, [(0, -vocabulary % width), (0, 0)]).reshape(-1, width, width)

    def add_block(factor: jax.Array, block: jax.Array) -> tuple[jax.Array, None]:
        stacked = jnp.concatenate([factor, block.astype(jnp.float32)])
        return jnp.linalg.qr(stacked, mode="r"), None

    factor, _ = jax.lax.scan(add_block, jnp.zeros((width, width), jnp.float32), blocks)
    return factor


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
    """Compute the SVD term for language models (`regularizers.nlg.svd`) from hidden states.

    Args:
      hidden: [..., d], the student's hidden states.
      factor: [d, d] or [d + 1, d + 1], from `head_factor`; gets no gradient.
      mask: bool [...], True where counted.
      k: the number of leading singular values.
      norm: the denominator; nuclear needs a full decomposition of [tokens, d].
      method: the algorithm for the leading singular values; see `linalg.leading`.
      groups: the number of equal parts of the batch, each with a matrix of its own, over whose
        terms the result is the mean. With 1 the term does not depend on the number of devices;
        with the number of devices it is the term of the official code, one matrix a device.

    Returns:
      [], float32.

    Raises:
      AssertionError: the shapes do not fit.
    """
    value, _ = checked_share(hidden, factor, mask, k=k, norm=norm, method=method, groups=groups)
    return value


def checked_share(
    hidden: jax.Array,
    factor: jax.Array,
    mask: jax.Array,
    *,
    k: int,
    norm: Literal["frobenius", "nuclear"] = "frobenius",
    method: Method = "subspace",
    groups: int = 1,
    mesh: Mesh | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Compute what `leading_share` does, and whether the rounds of `subspace` have converged.

    Args:
      hidden: as for `leading_share`.
      factor: as for `leading_share`.
      mask: as for `leading_share`.
      k: as for `leading_share`.
      norm: as for `leading_share`.
      method: as for `leading_share`.
      groups: as for `leading_share`.
      mesh: the devices, where the tokens are divided over its axes data and fsdp. With one group,
        and where these divide tokens and width, the devices divide the work, too.

    Returns:
      The term [], and the share [] of the groups whose rounds ended at their bound before all
      vectors had converged; float32. The share has no gradient.

    Raises:
      AssertionError: the shapes do not fit.
    """
    sharding = None
    if mesh is not None and groups == 1:
        sharding = _by_rows(mesh, mask.size, factor.shape[0])
    return _term((k, norm, method, groups, sharding), hidden, factor, mask)


def _by_rows(mesh: Mesh, tokens: int, width: int) -> NamedSharding | None:
    """The sharding of a matrix over data and fsdp by rows; None if they do not divide both."""
    sharding = NamedSharding(mesh, P(("data", "fsdp"), None))
    parts = parts_of(sharding)
    return None if parts == 1 or tokens % parts or width % parts else sharding


def _value(
    settings: tuple, hidden: jax.Array, factor: jax.Array, mask: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The two results; `settings` is (k, norm, method, groups, sharding of the rows)."""
    rows = nlg.counted_logits(hidden, mask)
    if factor.shape[0] == hidden.shape[-1] + 1:
        rows = jnp.concatenate([rows, mask[..., None].astype(jnp.float32)], axis=-1)
    chex.assert_axis_dimension(factor, 0, rows.shape[-1])
    return _mean_share(product(rows, factor.T), *settings)


_term = jax.custom_vjp(_value, nondiff_argnums=(0,))


def _forward(settings, hidden, factor, mask):
    # The gradient is computed at once: in the dtype of the hidden states it takes less memory than
    # the intermediate values that the backward pass would need.
    def value_of(states):
        return _value(settings, states, factor, mask)

    value, pull, unsettled = jax.vjp(value_of, hidden, has_aux=True)
    return (value, unsettled), pull(jnp.float32(1.0))[0]


def _backward(settings, gradient, cotangents):
    scale, _ = cotangents
    return (scale * gradient).astype(gradient.dtype), None, None


_term.defvjp(_forward, _backward)


def checked_share_of_logits(
    logits: jax.Array,
    mask: jax.Array,
    *,
    k: int,
    norm: Literal["frobenius", "nuclear"] = "frobenius",
    method: Method = "subspace",
    groups: int = 1,
) -> tuple[jax.Array, jax.Array]:
    """Compute the SVD term from whole logits, for heads without a factor (soft-capped or trained).

    It holds [tokens, V] several times.

    Args:
      logits: [..., V], the student's logits.
      mask: as for `leading_share`.
      k: as for `leading_share`.
      norm: as for `leading_share`.
      method: as for `leading_share`.
      groups: as for `leading_share`.

    Returns:
      As `checked_share`.
    """
    return _mean_share(nlg.counted_logits(logits, mask), k, norm, method, groups)


def _mean_share(
    rows: jax.Array,
    k: int,
    norm: str,
    method: Method,
    groups: int,
    sharding: NamedSharding | None = None,
) -> tuple[jax.Array, jax.Array]:
    """The mean of both results over equal groups of rows [..., width]."""
    chex.assert_is_divisible(rows.size // rows.shape[-1], groups)
    matrices = rows.reshape(groups, -1, rows.shape[-1])

    def share(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
        return _share(matrix, k, norm, method, sharding)

    shares, unsettled = jax.vmap(share)(matrices)
    return jnp.mean(shares), jnp.mean(unsettled)


def _share(
    matrix: jax.Array, k: int, norm: str, method: Method, sharding: NamedSharding | None
) -> tuple[jax.Array, jax.Array]:
    """Minus the sum of the k largest singular values of a matrix over its norm; unsettled."""
    if norm == "frobenius":
        leading, unsettled = checked_sum(matrix, k, method, sharding)
        return -ratio(leading, frobenius_norm(matrix)), unsettled
    values = singular_values(matrix)
    return -ratio(jnp.sum(values[:k]), jnp.sum(values)), jnp.float32(0)
