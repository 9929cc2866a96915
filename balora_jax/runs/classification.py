"""The task of classification and regression with a head: teacher outputs and the linear probe."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from balora_jax import data, models
from balora_jax.config import RunConfig
from balora_jax.evaluation.classifier import ClassifierEvaluator
from balora_jax.evaluation.glue import TextEvaluator, over_batches
from balora_jax.hosts import on_host
from balora_jax.objective import classification
from balora_jax.objective.linear_probe import fit_head
from balora_jax.objective.params import Tree
from balora_jax.regularizers.terms import make_terms
from balora_jax.runs.labeled_texts import TextRun
from balora_jax.runs.task import TrainingData
from balora_jax.runs.weights import base_shardings
from balora_jax.training.precision import PRECISIONS
from balora_jax.training.sharding import put
from balora_jax.training.subtrees import select, update


class Classification(TextRun):
    """The task sequence-classification; see `runs.task.Task` for the attributes and methods."""

    def __init__(self, config: RunConfig, tokenizer: Any) -> None:
        """Read and tokenize the data sets.

        Args:
          config: the run.
          tokenizer: the tokenizer of the model.

        Raises:
          BadInput: a data set cannot be used.
        """
        super().__init__(config, data.read_text_sets(config.data, tokenizer))

    def _make_evaluator(self) -> TextEvaluator:
        return ClassifierEvaluator(
            self._sets.task,
            self._sets.held_out,
            batch_size=self._micro_batch,
            lengths=self._lengths,
        )

    def prepare(
        self, loaded: models.Loaded, mesh: Mesh, steps: int, head: Tree | None
    ) -> TrainingData:
        """Run the teacher once on every training example of the run, and fit the linear probe.

        The teacher's output for an example is the same at every step, so it is computed before
        training.

        Args:
          loaded: the pre-trained model.
          mesh: the devices.
          steps: updates in the run.
          head: the head of step 0 of a resumed run; None otherwise.

        Returns:
          The base with the head that the run starts from, and the training set with the teacher's
          logits, or with its features if the student's head reads them.
        """
        base = loaded.params if head is None else update(loaded.params, head)
        teacher_head = self._config.teacher_head
        terms = make_terms(self._config.acting_terms, "nlu")
        needs_teacher = any(term.needs_teacher for term in terms.values())
        fits_probe = teacher_head == "probe" and head is None
        if not (fits_probe or needs_teacher):
            return TrainingData(base, self._train)

        rows = np.arange(self.examples) if fits_probe else self._seen(steps)
        dtype = PRECISIONS[self._config.training.precision].dtype
        attention = models.attention_on(mesh, self._config.model.attention)
        model = loaded.model.clone(dtype=dtype, mesh=mesh, attention=attention)
        features = self._features(model, base, mesh, rows)
        # Each host computes with the whole head, of which its devices may hold a part.
        head_params = on_host(select(base, models.head_modules(model)))
        if fits_probe:
            head_params = self._fit_probe(loaded.model, head_params, features)
            shardings = base_shardings(mesh, head_params, model.sharding_rules)
            base = update(base, jax.tree.map(put, jax.device_get(head_params), shardings))

        examples = self._train
        if needs_teacher:
            teacher = features
            if teacher_head != "student":
                teacher = _head_logits(model, head_params, features)
            examples = dataclasses.replace(examples, teacher=teacher)
        return TrainingData(base, examples)

    def _features(self, model: Any, base: Tree, mesh: Mesh, rows: np.ndarray) -> np.ndarray:
        """The features of the base, [examples, d], float32; zeros for examples not in `rows`."""
        replicated = NamedSharding(mesh, P())
        features_of = jax.jit(classification.make_features(model), out_shardings=replicated)
        features = over_batches(
            self._train,
            mesh,
            functools.partial(features_of, base),
            self._micro_batch,
            self._lengths,
            rows,
        )
        return features.astype(np.float32)

    def _fit_probe(self, model: Any, head_params: Tree, features: np.ndarray) -> Tree:
        regression = self._sets.task.scores is not None
        return fit_head(
            model.clone(dtype=jnp.float32),
            head_params,
            jnp.asarray(features),
            jnp.asarray(self._train.labels),
            regression=regression,
        )


def _head_logits(model: Any, head_params: Tree, features: np.ndarray) -> np.ndarray:
    """The logits [examples, D] of a head on features."""
    classify = jax.jit(lambda head, rows: model.apply({"params": head}, rows, method="classify"))
    logits = classify(head_params, jnp.asarray(features))
    return np.asarray(logits, np.float32)
