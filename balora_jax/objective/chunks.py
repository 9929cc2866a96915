"""A loop over chunks of the counted tokens, those of each shard together; tokens not counted are not computed."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

Tree = Any


class Chunks(NamedTuple):
    """How the tokens [shards, tokens] are passed through, `size` a shard at a time."""

    order: jax.Array  # [shards, tokens], the counted ones first
    counts: jax.Array  # [shards], how many are counted
    size: int

    @classmethod
    def of(cls, mask: jax.Array, size: int) -> "Chunks":
        """For mask [shards, tokens]; size at least 1."""
        chex.assert_rank(mask, 2)
        order = jnp.argsort(~mask, axis=1, stable=True)
        return cls(order, jnp.sum(mask, axis=1), min(size, mask.shape[1]))

    @property
    def number(self) -> jax.Array:
        """[], as many as the shard with the most counted tokens needs."""
        return -(-jnp.max(self.counts) // self.size)

    def arrange(self, array: jax.Array) -> jax.Array:
        """[shards, tokens, ...] in the order of the chunks, padded to whole ones."""
        array = jax.vmap(lambda rows, order: rows[order])(array, self.order)
        padding = -array.shape[1] % self.size
        return (
            jnp.pad(array, [(0, 0), (0, padding)] + [(0, 0)] * (array.ndim - 2))
            if padding
            else array
        )

    def restore(self, array: jax.Array) -> jax.Array:
        """The inverse of `arrange`."""
        return jax.vmap(lambda rows, order: rows[order])(array, jnp.argsort(self.order, axis=1))

    def loop(self, body: Callable[[Tree, jax.Array, Callable], Tree], first: Tree) -> Tree:
        """Carries `first` through body(carry, start, counted [shards, size]) for every chunk that counts."""

        def step(index, carry):
            start = index * self.size
            return body(carry, start, start + jnp.arange(self.size) < self.counts[:, None])

        return jax.lax.fori_loop(0, self.number, step, first)

    def at(self, array: jax.Array, start: jax.Array) -> jax.Array:
        """The chunk of an arranged array that begins at `start`."""
        return jax.lax.dynamic_slice_in_dim(array, start, self.size, axis=1)
