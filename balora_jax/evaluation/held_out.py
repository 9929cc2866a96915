"""The held-out loss of a language model, over all counted tokens."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from balora_jax.adapters import AdapterSpec
from balora_jax.data import Batch
from balora_jax.objective.params import Params
from balora_jax.training.setup import Student
from balora_jax.training.sharding import batch_sharding, put
from balora_jax.training.state import TrainState

# (model, spec, *, head_frozen, mesh) -> ((params, batch) -> mean over the counted tokens).
MakeTaskLoss = Callable[..., Callable[[Params, Batch], jax.Array]]


class HeldOutLoss:
    """An Evaluator of the mean task loss over all counted tokens of the held-out set."""

    def __init__(
        self,
        make_task_loss: MakeTaskLoss,
        batches: Callable[[], Iterable[tuple[np.ndarray, Batch]]],
    ) -> None:
        """Set the loss and the batches.

        Args:
          make_task_loss: from `objective.causal_lm` or `objective.seq2seq_lm`.
          batches: returns the held-out batches from the first one, each as (the indices of its
            examples, the batch).
        """
        self._make_task_loss = make_task_loss
        self._batches = batches

    def __call__(self, student: Student, state: TrainState) -> dict[str, float]:
        """Compute the mean loss.

        Args:
          student: the model and its frozen weights.
          state: the state with its trained weights.

        Returns:
          {"loss": the mean over all counted tokens, in nats}.
        """
        setup = student.setup
        params = student.params(state)
        sharding = batch_sharding(setup.mesh)
        sums = []
        for _, arrays in self._batches():
            batch = jax.tree.map(lambda array: put(array[None], sharding)[0], arrays)
            batch_sums = _batch_loss(
                self._make_task_loss,
                setup.model,
                setup.spec,
                setup.head_frozen,
                setup.loss_mesh,
                params,
                batch,
            )
            sums.append(batch_sums)
        losses, tokens = np.asarray(jax.device_get(sums)).T
        return {"loss": float(losses.sum() / tokens.sum())}


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _batch_loss(
    make_task_loss: MakeTaskLoss,
    model: Any,
    spec: AdapterSpec,
    head_frozen: bool,
    mesh: Mesh | None,
    params: Params,
    batch: Batch,
) -> tuple[jax.Array, jax.Array]:
    """The sum of the loss over the counted tokens, and the number of counted tokens."""
    task_loss = make_task_loss(model, spec, head_frozen=head_frozen, mesh=mesh)
    tokens = jnp.sum(batch.mask)
    return task_loss(params, batch) * tokens, tokens
