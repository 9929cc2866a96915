"""What a run trains, what it keeps frozen, and the state it carries from step to step."""

from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

Tree = Any
Path = tuple[str, ...]


class TrainState(struct.PyTreeNode):
    """All that changes during a run; the frozen leaves are not in it.

    Attributes:
      step: updates done, int32.
      trainable: the parameters' tree with optax.MaskedNode() in place of each frozen leaf.
      opt_state: optax's state, for the trainable leaves only.
      key: random key data of the run, uint32.
    """

    step: jax.Array
    trainable: Tree
    opt_state: optax.OptState
    key: jax.Array


def trainable_mask(params: Tree, *, method: str, head: Collection[Path] = ()) -> Tree:
    """True at the leaves that are trained: every base weight under `full`, else the adapters, and a new head.

    Args:
      params: {"base": frozen tree, "adapters": {a, b} tree, ...}, the rest frozen too.
      method: full, or one of the adapter methods.
      head: modules of the base that are trained whole.
    """
    trained = "base" if method == "full" else "adapters"

    def is_trained(path: tuple[Any, ...], _: Any) -> bool:
        part, *names = (key.key for key in path)
        return part == trained or (
            part == "base" and any(tuple(names[: len(module)]) == module for module in head)
        )

    return jax.tree_util.tree_map_with_path(is_trained, params)


def partition(params: Tree, mask: Tree) -> tuple[Tree, Tree]:
    """Split parameters into the trainable and the frozen ones.

        params     {"base": {"q": 1}, "adapters": {"q": {"a": 2, "b": 3}}}
        mask       {"base": {"q": False}, "adapters": {"q": {"a": True, "b": True}}}
        trainable  {"base": {"q": MaskedNode()}, "adapters": {"q": {"a": 2, "b": 3}}}
        frozen     {"base": {"q": 1}, "adapters": {"q": {"a": MaskedNode(), "b": MaskedNode()}}}

    Args:
      params: nested dict.
      mask: tree of bools with the structure of `params`, True at the trainable leaves.

    Returns:
      (trainable, frozen), each with the structure of `params` and optax.MaskedNode() in place of
      the leaves that the other has.
    """
    trainable = jax.tree.map(lambda keep, leaf: leaf if keep else optax.MaskedNode(), mask, params)
    frozen = jax.tree.map(lambda keep, leaf: optax.MaskedNode() if keep else leaf, mask, params)
    return trainable, frozen


def combine(trainable: Tree, frozen: Tree, mask: Tree) -> Tree:
    """The inverse of `partition`."""
    return jax.tree.map(lambda keep, left, right: left if keep else right, mask, trainable, frozen)


def init_state(trainable: Tree, optimizer: optax.GradientTransformation, seed: int) -> TrainState:
    """The state before the first update; it owns its arrays, so a step may overwrite them in place."""
    trainable = jax.tree.map(jnp.copy, trainable)
    key = jax.random.key_data(jax.random.key(seed))
    return TrainState(jnp.zeros((), jnp.int32), trainable, optimizer.init(trainable), key)


def count(tree: Tree) -> int:
    """Numbers in all leaves of a tree."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
