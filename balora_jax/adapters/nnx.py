"""Adapters on Flax NNX modules that were not written for them."""

from typing import Any, NamedTuple

import jax
from flax import nnx

from balora_jax.adapters.linen import check_lora_paths
from balora_jax.adapters.merge import merge

Tree = Any


class Split(NamedTuple):
    """A module, divided into its parameters and all else.

    Attributes:
      params: nested dict of the arrays of its `nnx.Param`; the keys of lists are numbers.
      graph: the module without arrays.
      state: of the parameters.
      rest: of all other variables.
    """

    params: dict
    graph: Any
    state: nnx.State
    rest: nnx.State


def split(module: nnx.Module) -> Split:
    """Divide a module, for `match_targets`, `init_pissa` and the other functions of `params`.

    Args:
      module: whose linear layers have a `kernel`, as `nnx.Linear` does.
    """
    graph, state, rest = nnx.split(module, nnx.Param, ...)
    return Split(nnx.to_pure_dict(state), graph, state, rest)


def apply(
    parts: Split, lora: Tree, *arguments: Any, method: str = "__call__", **options: Any
) -> Any:
    """Call the module with adapters in its kernels; differentiable by `lora`.

    The kernels W + A B are made whole in every call: for training a model of one's own. What the
    module changes of itself, such as running means, is lost.

    Args:
      parts: from `split`.
      lora: from `student_lora`; {} for the module as it is.
      *arguments: of the method.
      method: the name of the method.
      **options: of the method.

    Returns:
      What the method returns.

    Raises:
      BadInput: an adapter has no kernel, or does not fit its kernel.
    """
    check_lora_paths(lora, parts.params)
    state = jax.tree.map(lambda leaf: leaf, parts.state)
    nnx.replace_by_pure_dict(state, merge(parts.params, lora))
    module = nnx.merge(parts.graph, state, parts.rest)
    return getattr(module, method)(*arguments, **options)
