"""Parts of a parameter tree by module: select them, leave them out, update them."""

from collections.abc import Sequence

from flax import traverse_util

from balora_jax.objective.params import Tree
from balora_jax.training.state import Path


def select(tree: Tree, modules: Sequence[Path]) -> Tree:
    """Return the part of a tree inside some modules.

        select({"head": {"w": 1}, "body": {"w": 2}}, [("head",)])  ->  {"head": {"w": 1}}

    Args:
      tree: a nested dict.
      modules: the paths of the modules.
    """
    flat = traverse_util.flatten_dict(tree)
    chosen = {path: leaf for path, leaf in flat.items() if _inside(path, modules)}
    return traverse_util.unflatten_dict(chosen)


def without(tree: Tree, modules: Sequence[Path]) -> Tree:
    """Return the part of a tree outside some modules.

        without({"head": {"w": 1}, "body": {"w": 2}}, [("head",)])  ->  {"body": {"w": 2}}

    Args:
      tree: a nested dict.
      modules: the paths of the modules.
    """
    flat = traverse_util.flatten_dict(tree)
    chosen = {path: leaf for path, leaf in flat.items() if not _inside(path, modules)}
    return traverse_util.unflatten_dict(chosen)


def update(tree: Tree, part: Tree) -> Tree:
    """Return a tree with the leaves of `part` in place of its own leaves.

        update({"head": {"w": 1}, "body": {"w": 2}}, {"head": {"w": 3}})
          ->  {"head": {"w": 3}, "body": {"w": 2}}

    Args:
      tree: a nested dict.
      part: a nested dict with some of its leaves.
    """
    flat = traverse_util.flatten_dict(tree) | traverse_util.flatten_dict(part)
    return traverse_util.unflatten_dict(flat)


def _inside(path: Path, modules: Sequence[Path]) -> bool:
    return any(path[: len(module)] == module for module in modules)
