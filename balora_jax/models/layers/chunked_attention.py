"""Attention block by block, so that no array of size [queries, keys] is held."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from balora_jax.models.layers.mask import AttentionMask
from balora_jax.models.layers.mask_blocks import MaskBlocks

QUERY_BLOCK = 256
KEY_BLOCK = 256
# Less than any score and more than a masked one, so that a masked score's weight is 0 even where
# no key of the row has been allowed so far.
LOWEST_MAXIMUM = -0.35 * float(jnp.finfo(jnp.float32).max)
MASKED_SCORE = 2 * LOWEST_MAXIMUM


class Scoring(NamedTuple):
    """The scores' factor and their soft cap, or None."""

    scale: float
    softcap: float | None


def attend_in_chunks(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: AttentionMask,
    *,
    scale: float,
    softcap: float | None = None,
    bias: jax.Array | None = None,
    query_block: int = QUERY_BLOCK,
    key_block: int = KEY_BLOCK,
) -> jax.Array:
    """Compute attention with a softmax that is brought up to date block by block of the keys.

    FlashAttention-2 (Dao, arXiv 2307.08691, algorithms 1 and 2) as loops of matrix products. Blocks
    of keys that no query of a block may attend to are not visited, also where that depends on the
    batch. The backward pass computes the scores of a block again, and adds gradients in float32.

    Args:
      query: [batch, queries, heads, D].
      key: [batch, keys, kv_heads, D]; kv_heads divides heads.
      value: [batch, keys, kv_heads, D].
      mask: the keys each query may attend to. A query without any has the mean of all values.
      scale: factor of the scores.
      softcap: c of c * tanh(scores / c), or None.
      bias: [batch or 1, heads, queries, keys] float32, added to the scores; or None.
      query_block: queries in a block, at most.
      key_block: keys in a block, at most.

    Returns:
      [batch, queries, heads, D], of the value's element type.
    """
    queries = query.shape[1]
    keys = key.shape[1]
    query_block = min(query_block, queries)
    key_block = min(key_block, keys)
    kv_heads = key.shape[2]

    mask_blocks = MaskBlocks.split(mask, queries, keys, query_block, key_block)
    output, is_empty = _attend(
        Scoring(scale, softcap),
        _split_queries(query, kv_heads, query_block),
        _split_keys(key, key_block),
        _split_keys(value, key_block),
        None if bias is None else _split_bias(bias, kv_heads, query_block, key_block),
        mask_blocks,
    )
    output = _join_queries(output)[:, :queries]
    is_empty = _join_queries(is_empty)[:, :queries]
    mean = jnp.mean(value.astype(jnp.float32), axis=1, keepdims=True).astype(value.dtype)
    mean = jnp.repeat(mean, query.shape[2] // kv_heads, axis=2)
    return _filled(is_empty, mean, output)


@jax.custom_vjp
def _filled(is_empty: jax.Array, mean: jax.Array, output: jax.Array) -> jax.Array:
    """Put the mean of the values where a query has no key.

    Of jnp.where the backward pass keeps a condition as large as the output.

    Args:
      is_empty: bool [batch, queries, heads, 1].
      mean: [batch, 1, heads, D].
      output: [batch, queries, heads, D].
    """
    return jnp.where(is_empty, mean, output)


def _filled_forward(is_empty, mean, output):
    return _filled(is_empty, mean, output), is_empty


def _filled_backward(is_empty, gradient):
    mean_gradient = jnp.sum(
        jnp.where(is_empty, gradient, 0), axis=1, keepdims=True, dtype=jnp.float32
    )
    output_gradient = jnp.where(is_empty, 0, gradient)
    return None, mean_gradient.astype(gradient.dtype), output_gradient


_filled.defvjp(_filled_forward, _filled_backward)


def _pad(x: jax.Array, axis: int, block: int) -> jax.Array:
    """Pad an axis with zeros to a multiple of the block."""
    missing = -x.shape[axis] % block
    if not missing:
        return x
    padding = [(0, 0)] * x.ndim
    padding[axis] = (0, missing)
    return jnp.pad(x, padding)


def _split_queries(x: jax.Array, kv_heads: int, block: int) -> jax.Array:
    """[batch, queries, heads, D] -> [blocks, batch, kv_heads, heads of a group, block, D]."""
    x = _pad(x, 1, block)
    batch, length, heads, size = x.shape
    x = x.reshape(batch, length // block, block, kv_heads, heads // kv_heads, size)
    return x.transpose(1, 0, 3, 4, 2, 5)


def _join_queries(x: jax.Array) -> jax.Array:
    """The inverse of `_split_queries`, but for the padding."""
    blocks, batch, kv_heads, group, block, size = x.shape
    x = x.transpose(1, 0, 4, 2, 3, 5)
    return x.reshape(batch, blocks * block, kv_heads * group, size)


def _split_keys(x: jax.Array, block: int) -> jax.Array:
    """[batch, keys, kv_heads, D] -> [blocks, batch, kv_heads, block, D]."""
    x = _pad(x, 1, block)
    batch, length, kv_heads, size = x.shape
    x = x.reshape(batch, length // block, block, kv_heads, size)
    return x.transpose(1, 0, 3, 2, 4)


def _split_bias(bias: jax.Array, kv_heads: int, query_block: int, key_block: int) -> jax.Array:
    """Cut a bias [batch or 1, heads, queries, keys] into pairs of blocks.

    Returns:
      [query blocks, key blocks, batch or 1, kv_heads, heads of a group, query block, key block].
    """
    bias = _pad(_pad(bias, 2, query_block), 3, key_block)
    batch, heads, queries, keys = bias.shape
    bias = bias.reshape(
        batch,
        kv_heads,
        heads // kv_heads,
        queries // query_block,
        query_block,
        keys // key_block,
        key_block,
    )
    return bias.transpose(3, 5, 0, 1, 2, 4, 6)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(
    scoring: Scoring,
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    bias: jax.Array | None,
    mask: MaskBlocks,
) -> tuple[jax.Array, jax.Array]:
    """Attend from blocks of queries to blocks of keys.

    Args:
      scoring: the scores' factor and cap.
      query: as `_split_queries` returns it.
      key: as `_split_keys` returns it.
      value: likewise.
      bias: as `_split_bias` returns it, or None.
      mask: the mask's blocks.

    Returns:
      The output in the query's shape, and [blocks, batch, kv_heads, group, block, 1] bool, True
      where a query has no key.
    """
    output, is_empty, _ = _forward(scoring, query, key, value, bias, mask)
    return output, is_empty


def _forward(scoring, query, key, value, bias, mask):
    """Compute the outputs of `_attend`, and the logarithm of each row's sum of exponentials."""
    visits, counts = mask.visits()
    columns = key.mT

    def attend_from_block(inputs):
        query, bias, queries, visits, count = inputs

        def visit(step, state):
            maximum, total, weighted = state
            index = visits[step]
            scores, _ = _scores(scoring, query, columns[index], _at(bias, index))
            scores = jnp.where(mask.allowed(queries, index), scores, MASKED_SCORE)
            new_maximum = jnp.maximum(maximum, scores.max(axis=-1, keepdims=True))
            weights = jnp.exp(scores - new_maximum)
            shrink = jnp.exp(maximum - new_maximum)
            total = shrink * total + weights.sum(axis=-1, keepdims=True)
            weights = weights.astype(value.dtype)
            weighted = shrink * weighted + _multiply_rows(weights, value[index])
            return new_maximum, total, weighted

        maximum = jnp.full((*query.shape[:-1], 1), LOWEST_MAXIMUM, jnp.float32)
        start = (maximum, jnp.zeros_like(maximum), jnp.zeros(query.shape, jnp.float32))
        maximum, total, weighted = jax.lax.fori_loop(0, count, visit, start)
        is_empty = total == 0
        total = jnp.where(is_empty, 1, total)
        output = (weighted / total).astype(value.dtype)
        return output, is_empty, maximum + jnp.log(total)

    return jax.lax.map(attend_from_block, (query, bias, mask.queries, visits, counts))


def _attend_forward(scoring, query, key, value, bias, mask):
    output, is_empty, log_total = _forward(scoring, query, key, value, bias, mask)
    return (output, is_empty), (query, key, value, bias, mask, output, log_total)


def _attend_backward(scoring, saved, gradients):
    """Add up the gradients over the same pairs of blocks; D as in the paper is `mean`."""
    query, key, value, bias, mask, output, log_total = saved
    visits, counts = mask.visits()
    key_columns = key.mT
    value_columns = value.mT

    def from_block(key_sums, inputs):
        query, bias, queries, visits, count, output, log_total, gradient = inputs
        mean = jnp.sum(output.astype(jnp.float32) * gradient, axis=-1, keepdims=True)

        def visit(step, sums):
            query_sum, key_sum, value_sum, bias_sum = sums
            index = visits[step]
            scores, slope = _scores(scoring, query, key_columns[index], _at(bias, index))
            allowed = mask.allowed(queries, index)
            weights = jnp.where(allowed, jnp.exp(scores - log_total), 0)
            change = weights * (_multiply_rows(gradient, value_columns[index]) - mean)
            if bias is not None:
                bias_sum = _add_at(bias_sum, index, _summed_to(bias_sum.shape[1], change))
            change = (scoring.scale * slope * change).astype(query.dtype)
            query_sum = query_sum + _multiply_rows(change, key[index])
            key_sum = _add_at(key_sum, index, _sum_rows(query, change))
            weights = weights.astype(value.dtype)
            value_sum = _add_at(value_sum, index, _sum_rows(gradient, weights))
            return query_sum, key_sum, value_sum, bias_sum

        query_sum = jnp.zeros(query.shape, jnp.float32)
        bias_sum = None if bias is None else jnp.zeros_like(bias)
        start = (query_sum, *key_sums, bias_sum)
        query_sum, *key_sums, bias_sum = jax.lax.fori_loop(0, count, visit, start)
        return tuple(key_sums), (query_sum.astype(query.dtype), bias_sum)

    key_sums = (
        jnp.zeros(key_columns.shape, jnp.float32),
        jnp.zeros(value_columns.shape, jnp.float32),
    )
    inputs = (query, bias, mask.queries, visits, counts, output, log_total, gradients[0])
    (key_sum, value_sum), (query_sum, bias_sum) = jax.lax.scan(from_block, key_sums, inputs)
    key_gradient = key_sum.mT.astype(key.dtype)
    value_gradient = value_sum.mT.astype(value.dtype)
    return query_sum, key_gradient, value_gradient, bias_sum, None


_attend.defvjp(_attend_forward, _attend_backward)


def _scores(
    scoring: Scoring, query: jax.Array, columns: jax.Array, bias: jax.Array | None
) -> tuple[jax.Array, jax.Array | float]:
    """Compute the scores of a pair of blocks, and the derivative of their cap.

    Args:
      scoring: the scores' factor and cap.
      query: [batch, kv_heads, group, queries, D].
      columns: [batch, kv_heads, D, keys], the keys.
      bias: [batch or 1, kv_heads, group, queries, keys], or None.

    Returns:
      [batch, kv_heads, group, queries, keys] float32, and the same or 1.
    """
    scores = scoring.scale * _multiply_rows(query, columns)
    slope = 1.0
    if scoring.softcap is not None:
        capped = jnp.tanh(scores / scoring.softcap)
        scores = scoring.softcap * capped
        slope = 1 - capped * capped
    if bias is not None:
        scores = scores + bias
    return scores, slope


def _multiply_rows(rows: jax.Array, matrix: jax.Array) -> jax.Array:
    """Multiply rows [..., group, queries, m] by the group's matrix [..., m, n], in float32."""
    *lead, group, queries, size = rows.shape
    rows = rows.reshape(*lead, group * queries, size)
    products = jnp.matmul(rows, matrix, preferred_element_type=jnp.float32)
    return products.reshape(*lead, group, queries, -1)


def _sum_rows(rows: jax.Array, weights: jax.Array) -> jax.Array:
    """Sum the rows [..., group, queries, D] with the weights [..., group, queries, keys].

    The transposed sum would have a CPU copy the weights transposed.

    Returns:
      [..., D, keys] float32.
    """
    *lead, group, queries, keys = weights.shape
    weights = weights.reshape(*lead, group * queries, keys)
    rows = rows.reshape(*lead, group * queries, -1)
    return jnp.matmul(rows.mT, weights, preferred_element_type=jnp.float32)


def _at(bias: jax.Array | None, index: jax.Array) -> jax.Array | None:
    return None if bias is None else bias[index]


def _add_at(sums: jax.Array, index: jax.Array, change: jax.Array) -> jax.Array:
    """Add to one entry, without the bounds check of `.at[index].add`."""
    total = jax.lax.dynamic_index_in_dim(sums, index, keepdims=False) + change
    return jax.lax.dynamic_update_index_in_dim(sums, total, index, axis=0)


def _summed_to(batch: int, x: jax.Array) -> jax.Array:
    """Sum over the batch if the result's batch is 1."""
    return x if x.shape[0] == batch else x.sum(axis=0, keepdims=True)
