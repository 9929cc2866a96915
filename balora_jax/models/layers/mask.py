"""The attention mask as a description: which keys each query may attend to.

A mask is made dense only where scores are computed, so that nothing of size [queries, keys] is
stored beside the scores, and so that a fused attention kernel can read the description instead.
"""

from typing import Self

import jax
import jax.numpy as jnp
from flax import struct

from balora_jax.models.layers.packing import Packing


@struct.dataclass
class AttentionMask:
    """The keys each query may attend to: those that pass every condition that is set.

    Arrays of positions and segment ids may have a leading axis of 1 in place of the batch.

    Attributes:
      key_mask: [batch, keys] bool, True where a key is a token and not padding.
      query_mask: [batch, queries] bool; a query with False attends to nothing. None: no condition.
      query_positions: [batch, queries] int32, each query's position in its text; needed by a causal
        mask and by a window.
      key_positions: [batch, keys] int32, likewise for the keys.
      window: int32 scalar; a query sees this many positions back, its own included. None: all.
      query_segment_ids: [batch, queries] int32; a query sees keys of its own segment only. None: no
        condition.
      key_segment_ids: [batch, keys] int32, likewise for the keys.
      key_ends: [batch, keys] int32, of `Packing`: a query sees the keys that are not after it in
        the row and whose ends are. None: no condition.
      query_indices: [1, queries] int32, each query's index in the row; needed by `key_ends`.
      key_indices: [1, keys] int32, likewise for the keys.
      is_causal: True if a query sees no key at a later position; static.
      is_ordered: True if the queries are the keys' tokens and positions ascend along each segment
        (along the row without segments), so that no token before padding sees a key that is after
        it in the row; static.
    """

    key_mask: jax.Array
    query_mask: jax.Array | None = None
    query_positions: jax.Array | None = None
    key_positions: jax.Array | None = None
    window: jax.Array | None = None
    query_segment_ids: jax.Array | None = None
    key_segment_ids: jax.Array | None = None
    key_ends: jax.Array | None = None
    query_indices: jax.Array | None = None
    key_indices: jax.Array | None = None
    is_causal: bool = struct.field(pytree_node=False, default=False)
    is_ordered: bool = struct.field(pytree_node=False, default=False)

    @classmethod
    def padding(cls, key_mask: jax.Array, *, query_mask: jax.Array | None = None) -> Self:
        """Let every query attend to every key that is a token.

        Args:
          key_mask: [batch, keys] bool.
          query_mask: [batch, queries] bool, False where a query attends to nothing; or None.

        Returns:
          The mask.
        """
        return cls(key_mask, query_mask)

    @classmethod
    def causal(
        cls,
        query_positions: jax.Array,
        key_positions: jax.Array,
        key_mask: jax.Array,
        *,
        is_ordered: bool = False,
    ) -> Self:
        """Let every query attend to the tokens at its own and at earlier positions.

        Args:
          query_positions: [batch or 1, queries] int32.
          key_positions: [batch or 1, keys] int32.
          key_mask: [batch, keys] bool.
          is_ordered: True if queries and keys are the same tokens, in the order of their positions;
            also for texts packed one after the other.

        Returns:
          The mask.
        """
        return cls(
            key_mask,
            query_positions=query_positions,
            key_positions=key_positions,
            is_causal=True,
            is_ordered=is_ordered,
        )

    def with_window(self, window: jax.Array | int | None) -> Self:
        """Limit how far back a query sees.

        Args:
          window: positions a query sees, its own included; None for all.

        Returns:
          The mask with that window in place of its own.
        """
        return self.replace(window=window)

    def with_segments(
        self, query_segment_ids: jax.Array, key_segment_ids: jax.Array | None = None
    ) -> Self:
        """Separate texts that are packed into one row.

        Args:
          query_segment_ids: [batch or 1, queries] int32.
          key_segment_ids: [batch or 1, keys] int32; those of the queries if None.

        Returns:
          The mask with a query limited to the keys of its own segment.
        """
        if key_segment_ids is None:
            key_segment_ids = query_segment_ids
        return self.replace(query_segment_ids=query_segment_ids, key_segment_ids=key_segment_ids)

    @classmethod
    def packed(cls, packing: Packing, key_mask: jax.Array) -> Self:
        """Let every query attend to the tokens before it in its text, and to itself.

        Args:
          packing: the texts of each row.
          key_mask: [batch, length] bool.

        Returns:
          The mask.
        """
        positions = packing.positions
        if packing.segment_ids is not None:
            mask = cls.causal(positions, positions, key_mask, is_ordered=True)
            return mask.with_segments(packing.segment_ids)
        indices = jnp.arange(positions.shape[-1])[None]
        return cls(
            key_mask,
            query_positions=positions,
            key_positions=positions,
            key_ends=packing.ends,
            query_indices=indices,
            key_indices=indices,
        )

    def dense(self) -> jax.Array:
        """Combine the conditions into one array.

        Returns:
          [batch, queries, keys] bool, True where a query may attend to a key; [batch, 1, keys] if
          the conditions are the same for all queries.
        """
        allowed = self.key_mask[:, None, :]
        if self.query_mask is not None:
            allowed = self.query_mask[:, :, None] & allowed
        if self.is_causal:
            not_later = self.key_positions[:, None, :] <= self.query_positions[:, :, None]
            allowed = allowed & not_later
        if self.window is not None:
            distance = self.query_positions[:, :, None] - self.key_positions[:, None, :]
            allowed = allowed & (distance < self.window)
        if self.query_segment_ids is not None:
            query_segments = self.query_segment_ids[:, :, None]
            key_segments = self.key_segment_ids[:, None, :]
            allowed = allowed & (query_segments == key_segments)
        if self.key_ends is not None:
            query_indices = self.query_indices[:, :, None]
            not_after = self.key_indices[:, None, :] <= query_indices
            allowed = allowed & not_after & (query_indices < self.key_ends[:, None, :])
        return allowed
