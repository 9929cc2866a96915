"""A loop over chunks of the counted tokens; tokens that are not counted are not computed."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

Tree = Any


class Chunks(NamedTuple):
    """A division of tokens [shards, tokens] into chunks, with the counted tokens first.

    Attributes:
      order: int [shards, tokens], the positions of the tokens, those of counted tokens first.
      counts: int [shards], the number of counted tokens.
      size: tokens a shard in each chunk.
    """

    order: jax.Array
    counts: jax.Array
    size: int

    @classmethod
    def of(cls, mask: jax.Array, size: int) -> "Chunks":
        """Divide tokens into chunks.

        Args:
          mask: bool [shards, tokens], True where counted.
          size: tokens a shard in each chunk, at least 1; reduced to the number of tokens if larger.
        """
        chex.assert_rank(mask, 2)
        order = jnp.argsort(~mask, axis=1, stable=True)
        return cls(order, jnp.sum(mask, axis=1), min(size, mask.shape[1]))

    @property
    def number(self) -> jax.Array:
        """The number of chunks with counted tokens in any shard: [], int."""
        return -(-jnp.max(self.counts) // self.size)

    def arrange(self, array: jax.Array) -> jax.Array:
        """Put an array into the order of the chunks.

        Args:
          array: [shards, tokens, ...].

        Returns:
          [shards, padded tokens, ...], padded with zeros to whole chunks.
        """
        array = jax.vmap(lambda rows, order: rows[order])(array, self.order)
        padding = -array.shape[1] % self.size
        if padding == 0:
            return array
        return jnp.pad(array, [(0, 0), (0, padding)] + [(0, 0)] * (array.ndim - 2))

    def restore(self, array: jax.Array) -> jax.Array:
        """Put an arranged array back into the order of the tokens; padding is dropped."""
        positions = jnp.argsort(self.order, axis=1)
        return jax.vmap(lambda rows, order: rows[order])(array, positions)

    def loop(self, body: Callable[[Tree, jax.Array, jax.Array], Tree], carry: Tree) -> Tree:
        """Run a function on every chunk that has counted tokens.

        Args:
          body: (carry, start of the chunk [], counted [shards, size]) -> carry. `counted` is True
            at the chunk's counted tokens.
          carry: the first carry.

        Returns:
          The last carry.
        """

        def step(index, carry):
            start = index * self.size
            counted = start + jnp.arange(self.size) < self.counts[:, None]
            return body(carry, start, counted)

        return jax.lax.fori_loop(0, self.number, step, carry)

    def at(self, array: jax.Array, start: jax.Array) -> jax.Array:
        """Return the chunk [shards, size, ...] of an arranged array that begins at `start`."""
        return jax.lax.dynamic_slice_in_dim(array, start, self.size, axis=1)
