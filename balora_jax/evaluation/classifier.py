"""The held-out evaluation of a classifier, from its logits."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from balora_jax.adapters import AdapterSpec
from balora_jax.data import Batch, Examples
from balora_jax.evaluation import metrics
from balora_jax.evaluation.glue import Outputs, TextEvaluator
from balora_jax.objective import classification
from balora_jax.objective.params import Params
from balora_jax.training.setup import Student
from balora_jax.training.state import TrainState


class ClassifierEvaluator(TextEvaluator):
    """An Evaluator of classifiers; the outputs are logits [examples, D]."""

    def outputs(self, student: Student, state: TrainState, texts: Examples) -> Outputs:
        """Return the logits [examples, D] of every text, float32."""
        setup = student.setup
        params = student.params(state)
        replicated = NamedSharding(setup.mesh, P())

        def logits(batch: Batch) -> jax.Array:
            return _logits(setup.model, setup.spec, replicated, params, batch)

        return self._apply_to_batches(texts, setup.mesh, logits)

    def predictions(self, outputs: Outputs) -> np.ndarray:
        """Return the likeliest class, or the score, of every text: [examples]."""
        return metrics.predict(outputs, regression=self.regression)

    def _loss(self, student: Student, state: TrainState, outputs: Mapping[str, Outputs]) -> float:
        logits = jnp.concatenate(list(outputs.values()))
        labels = jnp.concatenate([texts.labels for texts in self._held_out.values()])
        task_loss = classification.task_loss(self.regression)
        return float(task_loss(logits, labels, jnp.ones(labels.shape, bool)))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _logits(
    model: Any, spec: AdapterSpec, sharding: NamedSharding, params: Params, batch: Batch
) -> jax.Array:
    logits = classification.make_logits(model, spec)(params, batch)
    return jax.lax.with_sharding_constraint(logits, sharding)
