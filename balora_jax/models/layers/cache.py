"""Token positions, and the cache of keys and values for decoding."""

import functools

import jax
import jax.numpy as jnp
from flax import struct
from jax.typing import DTypeLike

from balora_jax.models.layers.mask import AttentionMask
from balora_jax.models.layers.packing import Packing


@struct.dataclass
class Cache:
    """Keys and values of the tokens read so far, in slots filled from the left.

    Attributes:
      keys: [layers, batch, slots, kv_heads, D].
      values: [layers, batch, slots, kv_heads, D].
      positions: [batch, slots] int32, each token's position in its text.
      filled: [batch, slots] bool, True where a slot holds a token and not padding.
      length: int32 scalar, the next free slot.
    """

    keys: jax.Array
    values: jax.Array
    positions: jax.Array
    filled: jax.Array
    length: jax.Array


def empty_cache(
    layers: int, batch: int, slots: int, kv_heads: int, head_dim: int, dtype: DTypeLike
) -> Cache:
    """Create a cache without tokens.

    Args:
      layers: layers of the model.
      batch: rows.
      slots: tokens a row can hold, padding included.
      kv_heads: heads of the keys and values.
      head_dim: D, the size of a head.
      dtype: element type of the keys and values.

    Returns:
      The cache, all zeros.
    """
    shape = (layers, batch, slots, kv_heads, head_dim)
    return Cache(
        keys=jnp.zeros(shape, dtype),
        values=jnp.zeros(shape, dtype),
        positions=jnp.zeros((batch, slots), jnp.int32),
        filled=jnp.zeros((batch, slots), bool),
        length=jnp.zeros((), jnp.int32),
    )


def token_positions(attention_mask: jax.Array) -> jax.Array:
    """Number the tokens of each row, so that padding on either side changes no position.

    Args:
      attention_mask: [batch, length] bool, True at tokens.

    Returns:
      [batch, length] int32: the number of tokens before each one; 0 before the first token.
    """
    return jnp.maximum(jnp.cumsum(attention_mask.astype(jnp.int32), axis=-1) - 1, 0)


def place_tokens(
    attention_mask: jax.Array, cache: Cache | None, packing: Packing | None = None
) -> tuple[jax.Array, AttentionMask, Cache | None]:
    """Compute the positions of new tokens and the causal mask of their attention.

    Args:
      attention_mask: [batch, queries] bool, True where a new position holds a token.
      cache: the tokens before them, or None.
      packing: the texts of each row; None for one text a row. Not beside a cache.

    Returns:
      The new tokens' positions [batch, queries] int32; their attention mask, over the new tokens
      or, with a cache, over its slots; and the cache with the new positions but not yet the new
      keys and values (`store` adds those).
    """
    if packing is not None:
        return packing.positions, AttentionMask.packed(packing, attention_mask), None

    positions = token_positions(attention_mask)
    if cache is None:
        mask = AttentionMask.causal(positions, positions, attention_mask, is_ordered=True)
        return positions, mask, None

    cached_tokens = jnp.sum(cache.filled, axis=-1, keepdims=True, dtype=jnp.int32)
    positions = positions + cached_tokens
    start = (0, cache.length)
    key_positions = jax.lax.dynamic_update_slice(cache.positions, positions, start)
    filled = jax.lax.dynamic_update_slice(cache.filled, attention_mask, start)
    mask = AttentionMask.causal(positions, key_positions, filled)
    return positions, mask, cache.replace(positions=key_positions, filled=filled)


def text_lengths(positions: jax.Array, cache: Cache | None) -> jax.Array:
    """Count the tokens of each position's text.

    Texts of a row that begin alike count as the longest of them. Beside a cache, a text counts with
    the tokens for which there is room, so that its length is the same from the first token on.

    Args:
      positions: [batch, queries] int32, as `place_tokens` returned them.
      cache: likewise; None for whole texts.

    Returns:
      [batch, 1 or queries] int32.
    """
    if cache is not None:
        room = cache.filled.shape[-1] - cache.length - positions.shape[-1]
        return jnp.sum(cache.filled, axis=-1, keepdims=True, dtype=jnp.int32) + room
    # A text begins at position 0.
    text = jnp.cumsum(positions == 0, axis=-1)
    longest = jax.vmap(functools.partial(jax.ops.segment_max, num_segments=text.shape[-1] + 1))
    return jnp.take_along_axis(longest(positions, text), text, axis=-1) + 1


def store(cache: Cache, keys: jax.Array, values: jax.Array) -> Cache:
    """Write the new tokens' keys and values into the next free slots.

    Args:
      cache: as `place_tokens` returned it.
      keys: [layers, batch, queries, kv_heads, D].
      values: [layers, batch, queries, kv_heads, D].

    Returns:
      The cache with the new tokens.
    """
    start = (0, 0, cache.length, 0, 0)
    keys = keys.astype(cache.keys.dtype)
    values = values.astype(cache.values.dtype)
    return cache.replace(
        keys=jax.lax.dynamic_update_slice(cache.keys, keys, start),
        values=jax.lax.dynamic_update_slice(cache.values, values, start),
        length=cache.length + keys.shape[2],
    )


def insert(
    past_key_values: tuple[jax.Array, jax.Array],
    key: jax.Array,
    value: jax.Array,
    slot: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Insert new keys and values among one layer's cached ones.

    Args:
      past_key_values: the cached keys and values, each [batch, slots, kv_heads, D].
      key: [batch, queries, kv_heads, D], the new keys.
      value: [batch, queries, kv_heads, D], the new values.
      slot: int32 scalar, the slot of the first new token.

    Returns:
      All keys and all values, each [batch, slots, kv_heads, D], of the new ones' element type.
    """
    past_keys, past_values = past_key_values
    start = (0, slot, 0, 0)
    keys = jax.lax.dynamic_update_slice(past_keys, key.astype(past_keys.dtype), start)
    values = jax.lax.dynamic_update_slice(past_values, value.astype(past_values.dtype), start)
    return keys.astype(key.dtype), values.astype(value.dtype)
