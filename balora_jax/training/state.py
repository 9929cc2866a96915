"""The trained and the frozen part of a run's parameters, and the state carried between steps."""

from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from balora_jax.objective.params import Params
from balora_jax.training import averaging

Tree = Any
Path = tuple[str, ...]


class TrainState(struct.PyTreeNode):
    """Everything that changes during a run; the frozen leaves are not in it.

    Attributes:
      step: updates done, int32.
      trainable: the parameters with optax.MaskedNode() in place of each frozen leaf.
      opt_state: optax's state, for the trainable leaves only.
      key: random key data of the run, uint32.
    """

    step: jax.Array
    trainable: Params
    opt_state: optax.OptState
    key: jax.Array

    @property
    def evaluated(self) -> Params:
        """The parameters to evaluate and export: the average, if the optimizer has one."""
        return averaging.evaluated(self.trainable, self.opt_state)

    @property
    def without_moments(self) -> "TrainState":
        """The state with `...` in place of what `evaluated` does not read."""
        return self.replace(opt_state=averaging.without_moments(self.opt_state))


def trainable_mask(params: Params, *, method: str, head: Collection[Path] = ()) -> Params:
    """True at the leaves that are trained.

    Under `full` these are all base weights; under any other method the adapters, and the modules
    that are trained whole.

    Args:
      params: arrays or their shapes.
      method: full, or one of the adapter methods.
      head: paths of the base's modules that are trained whole.

    Returns:
      A bool for every leaf of `params`.
    """
    full = method == "full"

    def is_trained(path: tuple[Any, ...], _: Any) -> bool:
        names = tuple(key.key for key in path)
        return full or any(names[: len(module)] == module for module in head)

    def constant(value: bool, tree: Tree) -> Tree:
        return jax.tree.map(lambda _: value, tree)

    return Params(
        adapters=constant(not full, params.adapters),
        base=jax.tree_util.tree_map_with_path(is_trained, params.base),
        head_factor=constant(False, params.head_factor),
        initial=constant(False, params.initial),
        pretrained=constant(False, params.pretrained),
    )


def partition(params: Params, mask: Params) -> tuple[Params, Params]:
    """Split parameters into the trainable and the frozen leaves.

        params    Params(base={"w": 1}, adapters={"a": 2})
        mask      Params(base={"w": False}, adapters={"a": True})
        trainable Params(base={"w": MaskedNode()}, adapters={"a": 2})
        frozen    Params(base={"w": 1}, adapters={"a": MaskedNode()})

    Args:
      params: any leaves.
      mask: a bool for each of them, True where trained.

    Returns:
      (trainable, frozen), each with optax.MaskedNode() where the other has its leaf.
    """
    hole = optax.MaskedNode()
    trainable = jax.tree.map(lambda trained, leaf: leaf if trained else hole, mask, params)
    frozen = jax.tree.map(lambda trained, leaf: hole if trained else leaf, mask, params)
    return trainable, frozen


def combine(trainable: Params, frozen: Params, mask: Params) -> Params:
    """Join what `partition` split.

    Args:
      trainable: the trained leaves.
      frozen: the others.
      mask: as for `partition`.

    Returns:
      All leaves.
    """
    return jax.tree.map(
        lambda trained, left, right: left if trained else right, mask, trainable, frozen
    )


def init_state(trainable: Params, optimizer: optax.GradientTransformation, seed: int) -> TrainState:
    """The state before the first update; it owns its arrays, so a step may overwrite them.

    Args:
      trainable: from `partition`.
      optimizer: masked likewise.
      seed: of the run's random key.

    Returns:
      The state.
    """
    trainable = jax.tree.map(jnp.copy, trainable)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        trainable=trainable,
        opt_state=optimizer.init(trainable),
        key=jax.random.key_data(jax.random.key(seed)),
    )


def count(tree: Tree) -> int:
    """The numbers in all leaves of a tree."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
