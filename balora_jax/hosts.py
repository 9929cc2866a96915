"""Arrays that the processes of several hosts hold together."""

from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils


def on_host(tree: Any) -> Any:
    """Return the whole arrays of a tree, on every host.

    Args:
      tree: of arrays, which may be divided over devices. All processes call it with the same.
    """
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return jax.tree.map(_whole, tree)


def _whole(leaf: Any) -> Any:
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        if leaf.is_fully_replicated:
            return np.asarray(leaf)
        return multihost_utils.process_allgather(leaf, tiled=True)
    return jax.device_get(leaf)
