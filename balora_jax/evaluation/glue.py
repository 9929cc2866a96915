"""Held-out metrics and predictions on labeled texts: the tasks of GLUE, or other labels."""

import abc
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from balora_jax import data
from balora_jax.data import Batch, Examples, TextTask
from balora_jax.evaluation import metrics
from balora_jax.hosts import on_host
from balora_jax.training.setup import Student
from balora_jax.training.sharding import batch_sharding, put
from balora_jax.training.state import TrainState

# The outputs of a model on a set of texts, a row for each: logits, or generated classes or scores.
Outputs = np.ndarray


class TextEvaluator(abc.ABC):
    """An Evaluator of labeled texts; a subclass defines the outputs of its kind of model.

    Attributes:
      task: the fields, labels and metrics.
      regression: True if labels are scores.
    """

    def __init__(
        self,
        task: TextTask,
        held_out: Mapping[str, Examples],
        *,
        batch_size: int,
        lengths: Sequence[int],
    ) -> None:
        """Set the held-out sets.

        Args:
          task: the fields, labels and metrics.
          held_out: the held-out sets by name.
          batch_size: texts evaluated at once.
          lengths: the lengths that batches are padded to.
        """
        self.task = task
        self.regression = task.scores is not None
        self._held_out = held_out
        self._batch_size = batch_size
        self._lengths = lengths

    def __call__(self, student: Student, state: TrainState) -> dict[str, float]:
        """Compute the mean held-out loss and every metric of every held-out set.

        Args:
          student: the model and its frozen weights.
          state: the state with its trained weights.

        Returns:
          The mean loss as `loss`, and the metrics as `<metric>`; as `<set>/<metric>` if there are
          several held-out sets.
        """
        outputs = self._outputs_by_set(student, state, self._held_out)
        loss = self._loss(student, state, outputs)
        several_sets = len(self._held_out) > 1
        return {"loss": loss} | self._measures_by_name(outputs, self._held_out, several_sets)

    def score(
        self, student: Student, state: TrainState, sets: Mapping[str, Examples]
    ) -> dict[str, float]:
        """Compute every metric of labeled sets other than the held-out ones.

        Args:
          student: the model and its frozen weights.
          state: the state with its trained weights.
          sets: the labeled sets by name.

        Returns:
          The metrics as `<set>/<metric>`.
        """
        outputs = self._outputs_by_set(student, state, sets)
        return self._measures_by_name(outputs, sets, with_set_names=True)

    @property
    def first_metric(self) -> str:
        """The metric that selects the best checkpoint: the first one of the first held-out set."""
        first_set = next(iter(self._held_out), "")
        return _metric_name(first_set, self.task.metrics[0], len(self._held_out) > 1)

    @abc.abstractmethod
    def outputs(self, student: Student, state: TrainState, texts: Examples) -> Outputs:
        """Run the model on every text.

        Args:
          student: the model and its frozen weights.
          state: the state with its trained weights.
          texts: the examples.

        Returns:
          The outputs, a row for each text.
        """

    @abc.abstractmethod
    def predictions(self, outputs: Outputs) -> np.ndarray:
        """Turn outputs into predictions.

        Args:
          outputs: from `outputs`.

        Returns:
          [examples], classes or scores.
        """

    @abc.abstractmethod
    def _loss(self, student: Student, state: TrainState, outputs: Mapping[str, Outputs]) -> float:
        """The mean loss over all examples (or answer tokens) of the held-out sets."""

    def measures(self, outputs: Outputs, labels: np.ndarray) -> dict[str, float]:
        """Compute the metrics of a labeled set.

        Args:
          outputs: from `outputs`.
          labels: [examples], classes or scores.
        """
        return metrics.score(self.task.metrics, self.predictions(outputs), labels)

    def unlabeled_measures(self, outputs: Outputs) -> dict[str, float]:
        """Compute the measures that need no labels; none by default."""
        return {}

    def _outputs_by_set(
        self, student: Student, state: TrainState, sets: Mapping[str, Examples]
    ) -> dict[str, Outputs]:
        return {name: self.outputs(student, state, texts) for name, texts in sets.items()}

    def _measures_by_name(
        self,
        outputs: Mapping[str, Outputs],
        sets: Mapping[str, Examples],
        with_set_names: bool,
    ) -> dict[str, float]:
        measures = {}
        for set_name, texts in sets.items():
            for metric, value in self.measures(outputs[set_name], texts.labels).items():
                measures[_metric_name(set_name, metric, with_set_names)] = value
        return measures

    def _apply_to_batches(
        self, texts: Examples, mesh: Mesh, function: Callable[[Batch], Any]
    ) -> Any:
        return over_batches(texts, mesh, function, self._batch_size, self._lengths)


def over_batches(
    texts: Examples,
    mesh: Mesh,
    function: Callable[[Batch], Any],
    batch_size: int,
    lengths: Sequence[int],
    rows: np.ndarray | None = None,
) -> Any:
    """Apply a function to texts, batch by batch.

    Args:
      texts: the examples.
      mesh: the devices, which share each batch.
      function: batch -> a tree of arrays [batch_size, ...].
      batch_size: examples a batch.
      lengths: the lengths that batches are padded to.
      rows: the indices of the examples to run; None for all.

    Returns:
      The same tree of arrays [examples, ...], in the order of the texts. Examples that are not in
      `rows` have zeros.
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
            whole[indices] = on_host(part)[: len(indices)]
    return gathered


def _metric_name(set_name: str, metric: str, with_set_name: bool) -> str:
    """The name of a metric, with the name of its set if asked."""
    return f"{set_name}/{metric}" if with_set_name else metric
