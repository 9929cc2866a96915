"""A run on classes or scores by a head of its own: the teacher's word on each example, the logits, the probe."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from balora_jax import data, models
from balora_jax.evaluation import metrics
from balora_jax.objective import plain
from balora_jax.runs.setup import Assembly, Tree, replace, take
from balora_jax.config import RunConfig
from balora_jax.data import Examples
from balora_jax.training.compiled_step import CompiledStep
from balora_jax.runs.labeled_texts import TextRun
from balora_jax.objective.schedules import weights_at
from balora_jax.objective import classification
from balora_jax.objective.linear_probe import fit_head
from balora_jax.training.optimizer import learning_rate
from balora_jax.training.sharding import tree_shardings
from balora_jax.training.state import combine
from balora_jax.training.step import make_train_step, whole_batch


class Classification(TextRun):
    """What a run on classes or scores reads, compiles and measures; what its model says of a text is logits."""

    def __init__(self, config: RunConfig, tokenizer: Any) -> None:
        """Reads the examples; raises BadInput where they cannot be used."""
        super().__init__(config, data.read_text_sets(config.data, tokenizer))

    def prepare(self, loaded: models.Loaded, mesh: Mesh, steps: int, head: Tree | None) -> models.Loaded:
        """Asks the pre-trained model, once, for its word on every example the run will show, and fits the probe.

        An example has one answer of the pre-trained model, whatever the step: so the teacher runs before the training,
        not in it.

        Args:
          loaded: the untouched model.
          mesh: where it lies.
          steps: updates in the run.
          head: the head of step 0 of a run that is gone on with.

        Returns:
          The model with the head that the run starts from.
        """
        consistency, training = self._config.active_regularizers.consistency, self._config.training
        base = loaded.params if head is None else replace(loaded.params, head)
        probing = consistency.teacher_head == "probe" and head is None
        if probing or consistency.weight > 0:
            rows = np.arange(self.examples) if probing else self._seen(steps)
            model = loaded.model.clone(dtype=jnp.dtype(training.precision))
            features = self._features(model, base, mesh, rows)
            own = take(base, models.head_modules(model))
            if probing:
                labels = jnp.asarray(self._train.labels)
                exact = loaded.model.clone(dtype=jnp.float32)
                own = fit_head(exact, own, jnp.asarray(features), labels, scores=self._scores)
                base = replace(base, jax.tree.map(jax.device_put, own, tree_shardings(mesh, {"base": own})["base"]))
            if consistency.weight > 0:
                fixed = consistency.teacher_head != "student"
                teacher = _read_by(model, own, features) if fixed else features
                self._train = dataclasses.replace(self._train, teacher=teacher)
        return loaded._replace(params=base)

    def _features(self, model: Any, base: Tree, mesh: Mesh, rows: np.ndarray) -> np.ndarray:
        """[examples, d] float32; zeros for those not in `rows`."""
        features = jax.jit(classification.make_features(model), out_shardings=NamedSharding(mesh, P()))
        return self._over(self._train, mesh, lambda batch: features(base, batch), rows).astype(np.float32)

    def compile(self, run: Assembly, steps: int, mesh: Mesh) -> CompiledStep:
        """Compiles the update."""
        terms = self._config.active_regularizers
        loss = classification.make_loss(run.model, run.spec, terms, scores=self._scores)
        rate = learning_rate(self._config.optimizer, steps)
        update = make_train_step(whole_batch(loss), run.optimizer, run.mask, weights_at(terms, steps), rate)
        return self._compiled(update, run, steps, mesh)

    def _make_say(self, run: Assembly, mesh: Mesh) -> Callable[[Any, Examples], np.ndarray]:
        function = classification.make_logits(run.model, run.spec)
        replicated = NamedSharding(mesh, P())

        def one(trainable: Tree, frozen: Tree, batch: data.Batch) -> jax.Array:
            return function(combine(trainable, frozen, run.mask), batch)

        step = jax.jit(one, out_shardings=replicated)
        return lambda state, texts: self._over(texts, mesh, lambda batch: step(state.trainable, run.frozen, batch))

    def _make_held_out_loss(self, run: Assembly, mesh: Mesh) -> Callable[[Any, dict[str, np.ndarray]], float]:
        labels = jnp.concatenate([texts.labels for texts in self._read.held_out.values()])

        def loss(state: Any, said: dict[str, np.ndarray]) -> float:
            logits = jnp.concatenate(list(said.values()))
            return float(plain.classification_error(logits, labels, scores=self._scores))

        return loss

    def _predict(self, said: np.ndarray) -> np.ndarray:
        return metrics.predict(said, scores=self._scores)


def _read_by(model: Any, head: Tree, features: np.ndarray) -> np.ndarray:
    """What a head makes of features: [examples, D] logits."""
    read = jax.jit(lambda head, features: model.apply({"params": head}, features, method="classify"))
    return np.asarray(read(jax.device_get(head), jnp.asarray(features)), np.float32)
