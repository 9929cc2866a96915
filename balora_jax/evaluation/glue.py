"""Labeled texts: held-out metrics and predictions on GLUE's tasks, or on one's own labels."""

import abc
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from balora_jax import data
from balora_jax.data import Batch, Examples, TextTask
from balora_jax.evaluation import metrics
from balora_jax.training.setup import Student
from balora_jax.training.sharding import batch_sharding, put
from balora_jax.training.state import TrainState

# A model's outputs on a set of texts, one row each: logits, or classes or scores that were written.
Outputs = np.ndarray


class TextEvaluator(abc.ABC):
    """An Evaluator for labeled texts; a subclass knows what its model's outputs are.

    Attributes:
      task: fields, labels and metrics.
      regression: whether labels are scores.
    """

    def __init__(
        self,
        task: TextTask,
        held_out: Mapping[str, Examples],
        *,
        batch_size: int,
        lengths: Sequence[int],
    ) -> None:
        """Evaluate on the held-out sets.

        Args:
          task: fields, labels and metrics.
          held_out: the held-out sets by name.
          batch_size: texts that are evaluated at once.
          lengths: lengths that batches are padded to.
        """
        self.task = task
        self.regression = task.scores is not None
        self._held_out = held_out
        self._batch_size = batch_size
        self._lengths = lengths

    def __call__(self, student: Student, state: TrainState) -> dict[str, float]:
        """Compute the mean held-out loss and every metric of every held-out set."""
        outputs = self._outputs_by_set(student, state, self._held_out)
        loss = self._loss(student, state, outputs)
        return {"loss": loss} | self._scored(outputs, self._held_out)

    def score(
        self, student: Student, state: TrainState, sets: Mapping[str, Examples]
    ) -> dict[str, float]:
        """Compute every metric of other labeled sets, as `<set>/<metric>`."""
        outputs = self._outputs_by_set(student, state, sets)
        return self._scored(outputs, sets, named_sets=True)

    @property
    def first_metric(self) -> str:
        """The metric that decides: the first one, of the first held-out set."""
        first_set = next(iter(self._held_out), "")
        return _metric_name(first_set, self.task.metrics[0], len(self._held_out) > 1)

    @abc.abstractmethod
    def outputs(self, student: Student, state: TrainState, texts: Examples) -> Outputs:
        """The model's outputs on every text."""

    @abc.abstractmethod
    def predictions(self, outputs: Outputs) -> np.ndarray:
        """[examples]: the classes or scores that outputs mean."""

    @abc.abstractmethod
    def _loss(self, student: Student, state: TrainState, outputs: Mapping[str, Outputs]) -> float:
        """The mean loss over all held-out sets."""

    def measures(self, outputs: Outputs, labels: np.ndarray) -> dict[str, float]:
        """The task's metrics on a labeled set."""
        return metrics.score(self.task.metrics, self.predictions(outputs), labels)

    def unlabeled_measures(self, outputs: Outputs) -> dict[str, float]:
        """Numbers that need no labels."""
        return {}

    def _outputs_by_set(
        self, student: Student, state: TrainState, sets: Mapping[str, Examples]
    ) -> dict[str, Outputs]:
        return {name: self.outputs(student, state, texts) for name, texts in sets.items()}

    def _scored(
        self,
        outputs: Mapping[str, Outputs],
        sets: Mapping[str, Examples],
        named_sets: bool = False,
    ) -> dict[str, float]:
        named_sets = named_sets or len(sets) > 1
        scored = {}
        for name, texts in sets.items():
            for metric, value in self.measures(outputs[name], texts.labels).items():
                scored[_metric_name(name, metric, named_sets)] = value
        return scored

    def _over(self, texts: Examples, mesh: Mesh, function: Callable[[Batch], Any]) -> Any:
        return over_batches(texts, mesh, function, self._batch_size, self._lengths)


def over_batches(
    texts: Examples,
    mesh: Mesh,
    function: Callable[[Batch], Any],
    batch_size: int,
    lengths: Sequence[int],
    rows: np.ndarray | None = None,
) -> Any:
    """Apply a function of batches to texts.

    Args:
      texts: the examples.
      mesh: the devices that batches are divided over.
      function: batch -> arrays [examples, ...].
      batch_size: examples a batch.
      lengths: lengths that batches are padded to.
      rows: which examples; None for all.

    Returns:
      Arrays [all examples, ...] in the texts' order, 0 for those that are not in `rows`.
    """
    sharding = batch_sharding(mesh)
    order = data.length_order(texts, batch_size, rows)
    results = []
    for indices, arrays in data.eval_batches(texts, order, lengths):
        batch = jax.tree.map(lambda array: put(array[None], sharding)[0], arrays)
        results.append((indices, function(batch)))

    first_result = results[0][1]
    gathered = jax.tree.map(
        lambda leaf: np.zeros((len(texts), *leaf.shape[1:]), leaf.dtype), first_result
    )
    for indices, result in results:
        for whole, part in zip(jax.tree.leaves(gathered), jax.tree.leaves(result), strict=True):
            whole[indices] = np.asarray(part)[: len(indices)]
    return gathered


def _metric_name(set_name: str, metric: str, named_sets: bool) -> str:
    """A metric's name, with its set's where there are several."""
    return f"{set_name}/{metric}" if named_sets else metric
