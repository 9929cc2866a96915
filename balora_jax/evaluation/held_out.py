"""The held-out loss of a model that writes, over all counted tokens."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from balora_jax import data
from balora_jax.runs.setup import Assembly
from balora_jax.training.sharding import batch_sharding, put
from balora_jax.training.step import make_eval_step


def mean_loss(
    run: Assembly, mesh: Mesh, loss: Callable, batches: Callable[[], Iterable[data.Batch]]
) -> Callable[[Any], float]:
    """state -> the mean over all counted tokens.

    Args:
      run: whose model it is.
      mesh: where it lies.
      loss: (params, batch) -> the mean over a batch's counted tokens.
      batches: makes the held-out batches, each time afresh.
    """
    sharding, step = batch_sharding(mesh), jax.jit(make_eval_step(loss, run.mask))

    def mean(state: Any) -> float:
        sums = []
        for arrays in batches():
            batch = jax.tree.map(lambda array: put(array[None], sharding)[0], arrays)
            sums.append(step(state.trainable, run.frozen, batch))
        losses, tokens = np.asarray(jax.device_get(sums)).T
        return float(losses.sum() / tokens.sum())

    return mean


def several(mesh: Mesh) -> Mesh | None:
    """The mesh where it has more than one device, for losses that must say what lies where."""
    return mesh if mesh.size > 1 else None
