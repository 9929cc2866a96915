"""An attention mask cut into blocks of queries and keys."""

from typing import Self

import jax
import jax.numpy as jnp
from flax import struct

from balora_jax.models.layers.mask import AttentionMask

QUERY_FIELDS = ("query_mask", "query_positions", "query_segment_ids", "query_indices")
KEY_FIELDS = ("key_mask", "key_positions", "key_segment_ids", "key_ends", "key_indices")


@struct.dataclass
class MaskBlocks:
    """The description of a mask in blocks, made dense one pair of blocks at a time.

    Attributes:
      queries: by field of AttentionMask, [query blocks, batch or 1, block].
      keys: likewise, [key blocks, batch or 1, block].
      rest: the mask without those fields.
      query_blocks: the number of blocks of queries; static.
    """

    queries: dict[str, jax.Array]
    keys: dict[str, jax.Array]
    rest: AttentionMask
    query_blocks: int = struct.field(pytree_node=False)

    @classmethod
    def split(
        cls, mask: AttentionMask, queries: int, keys: int, query_block: int, key_block: int
    ) -> Self:
        """Cut a mask.

        Args:
          mask: the mask.
          queries: the number of queries.
          keys: the number of keys.
          query_block: queries in a block; the last block is filled up.
          key_block: keys in a block; the last block is filled up with keys that nothing sees.

        Returns:
          The blocks.
        """
        if mask.is_causal and mask.is_ordered and mask.query_segment_ids is not None:
            # Positions restart in each segment, so they do not tell that a block is later.
            query_indices = jnp.arange(queries)[None]
            mask = mask.replace(query_indices=query_indices, key_indices=query_indices)
        key_blocks = {
            name: _cut(getattr(mask, name), key_block)
            for name in KEY_FIELDS
            if getattr(mask, name) is not None
        }
        # The keys that fill up the last block repeat the last one, but for this.
        index = jnp.arange(-(-keys // key_block) * key_block).reshape(-1, 1, key_block)
        key_blocks["key_mask"] = key_blocks["key_mask"] & (index < keys)
        query_blocks = {
            name: _cut(getattr(mask, name), query_block)
            for name in QUERY_FIELDS
            if getattr(mask, name) is not None
        }
        rest = mask.replace(**dict.fromkeys((*QUERY_FIELDS, *KEY_FIELDS)))
        return cls(query_blocks, key_blocks, rest, -(-queries // query_block))

    def allowed(self, queries: dict[str, jax.Array], index: jax.Array) -> jax.Array:
        """Make one pair of blocks dense.

        Args:
          queries: a block of `queries`.
          index: int32 scalar, the number of the block of keys.

        Returns:
          [batch, 1, 1, queries or 1, keys] bool.
        """
        keys = {name: x[index] for name, x in self.keys.items()}
        allowed = self.rest.replace(**queries, **keys).dense()[:, None, None]
        # Otherwise XLA computes it again for every head, in each of its readers.
        return jax.lax.optimization_barrier(allowed)

    def visits(self) -> tuple[jax.Array, jax.Array]:
        """List for each block of queries the blocks of keys, those that it may see first.

        Returns:
          [query blocks, key blocks] int32, and how many of each row it may see, [query blocks]
          int32.
        """
        visible = self.visible()
        order = jnp.argsort(~visible, axis=-1, stable=True).astype(jnp.int32)
        return order, jnp.sum(visible, axis=-1, dtype=jnp.int32)

    def visible(self) -> jax.Array:
        """Find the pairs of blocks in which a query may see a key, by the extremes of each block.

        Returns:
          [query blocks, key blocks] bool, False only where nothing is allowed in any row.
        """
        first_query = {name: x.min(axis=-1)[:, None] for name, x in self.queries.items()}
        last_query = {name: x.max(axis=-1)[:, None] for name, x in self.queries.items()}
        first_key = {name: x.min(axis=-1)[None] for name, x in self.keys.items()}
        last_key = {name: x.max(axis=-1)[None] for name, x in self.keys.items()}
        rest = self.rest
        visible = last_key["key_mask"]
        if "query_mask" in self.queries:
            visible = visible & last_query["query_mask"]
        if rest.is_causal:
            visible = visible & (first_key["key_positions"] <= last_query["query_positions"])
        if rest.window is not None:
            distance = first_query["query_positions"] - last_key["key_positions"]
            visible = visible & (distance < rest.window)
        if "query_segment_ids" in self.queries:
            visible = (
                visible
                & (first_query["query_segment_ids"] <= last_key["key_segment_ids"])
                & (first_key["key_segment_ids"] <= last_query["query_segment_ids"])
            )
        if "key_ends" in self.keys:
            visible = visible & (first_query["query_indices"] < last_key["key_ends"])
        if "key_indices" in self.keys:
            visible = visible & (first_key["key_indices"] <= last_query["query_indices"])
        visible = jnp.any(visible, axis=-1)
        return jnp.broadcast_to(visible, (self.query_blocks, visible.shape[1]))


def _cut(x: jax.Array, block: int) -> jax.Array:
    """[batch or 1, length] -> [blocks, batch or 1, block], filled up with the last element."""
    x = jnp.pad(x, [(0, 0), (0, -x.shape[1] % block)], mode="edge")
    return x.reshape(x.shape[0], -1, block).swapaxes(0, 1)
