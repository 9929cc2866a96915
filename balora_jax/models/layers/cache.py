"""Where tokens stand, which of them a query may see, and the keys and values of those already read."""

import jax
import jax.numpy as jnp
from flax import struct
from jax.typing import DTypeLike


@struct.dataclass
class Cache:
    """Keys and values of the tokens so far, in slots filled from the left.

    Attributes:
        keys, values: [layers, batch, slots, kv_heads, head_dim].
        positions: [batch, slots] int32, each token's place in its own text.
        filled: [batch, slots] bool, True where a slot holds a counted token.
        length: int32 scalar, the next free slot.
    """

    keys: jax.Array
    values: jax.Array
    positions: jax.Array
    filled: jax.Array
    length: jax.Array


@struct.dataclass
class Reach:
    """Which keys each query may see.

    Attributes:
        mask: [batch, queries, keys] bool.
        distance: [batch, queries, keys] int32, how far back a key lies.
        length: how many keys of the cache come before the queries.
    """

    mask: jax.Array
    distance: jax.Array
    length: jax.Array | int


def empty_cache(
    layers: int, batch: int, slots: int, kv_heads: int, head_dim: int, dtype: DTypeLike
) -> Cache:
    """A cache with nothing in it, for at most `slots` tokens a row, padding included."""
    shape = (layers, batch, slots, kv_heads, head_dim)
    return Cache(
        keys=jnp.zeros(shape, dtype),
        values=jnp.zeros(shape, dtype),
        positions=jnp.zeros((batch, slots), jnp.int32),
        filled=jnp.zeros((batch, slots), bool),
        length=jnp.zeros((), jnp.int32),
    )


def token_positions(mask: jax.Array) -> jax.Array:
    """Each counted token's place among the counted ones, so that padding on either side changes nothing.

    Args:
        mask: [batch, length] bool.

    Returns:
        [batch, length] int32; 0 before the first counted token.
    """
    return jnp.maximum(jnp.cumsum(mask.astype(jnp.int32), axis=-1) - 1, 0)


def causal_mask(
    query_positions: jax.Array, key_positions: jax.Array, key_counted: jax.Array
) -> jax.Array:
    """Which keys a query may see: counted ones that are not later than itself.

    Args:
        query_positions: [batch, queries] int32.
        key_positions: [batch, keys] int32.
        key_counted: [batch, keys] bool.

    Returns:
        [batch, queries, keys] bool.
    """
    return key_counted[:, None, :] & (key_positions[:, None, :] <= query_positions[:, :, None])


def look_back(mask: jax.Array, cache: Cache | None) -> tuple[jax.Array, Reach, Cache | None]:
    """The places of new tokens and what they may see.

    Args:
        mask: [batch, queries] bool, True where a new token counts.
        cache: what was read before, or None.

    Returns:
        The new tokens' positions [batch, queries], their reach, and the cache with the new tokens' places in it, which
        waits for their keys and values (`remember`).
    """
    positions = token_positions(mask)
    if cache is None:
        return positions, _reach(positions, positions, mask, 0), None
    positions = positions + jnp.sum(cache.filled, axis=-1, keepdims=True, dtype=jnp.int32)
    start = (0, cache.length)
    every = jax.lax.dynamic_update_slice(cache.positions, positions, start)
    filled = jax.lax.dynamic_update_slice(cache.filled, mask, start)
    return (
        positions,
        _reach(positions, every, filled, cache.length),
        cache.replace(positions=every, filled=filled),
    )


def _reach(
    positions: jax.Array, keys: jax.Array, counted: jax.Array, length: jax.Array | int
) -> Reach:
    return Reach(
        causal_mask(positions, keys, counted), positions[:, :, None] - keys[:, None, :], length
    )


def remember(cache: Cache, keys: jax.Array, values: jax.Array) -> Cache:
    """The cache with the new tokens' keys and values [layers, batch, queries, kv_heads, D] in the next free slots."""
    start = (0, 0, cache.length, 0, 0)
    return cache.replace(
        keys=jax.lax.dynamic_update_slice(cache.keys, keys.astype(cache.keys.dtype), start),
        values=jax.lax.dynamic_update_slice(cache.values, values.astype(cache.values.dtype), start),
        length=cache.length + keys.shape[2],
    )


def join(
    past: tuple, key: jax.Array, value: jax.Array, length: jax.Array | int
) -> tuple[jax.Array, jax.Array]:
    """One layer's cached keys and values [batch, slots, kv_heads, D] with the new ones at `length`."""
    start = (0, length, 0, 0)
    keys = jax.lax.dynamic_update_slice(past[0], key.astype(past[0].dtype), start)
    values = jax.lax.dynamic_update_slice(past[1], value.astype(past[1].dtype), start)
    return keys.astype(key.dtype), values.astype(value.dtype)
