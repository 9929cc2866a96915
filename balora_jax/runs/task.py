"""The interface of the tasks: data sets, batches and evaluation of a run, by model.task."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any, Protocol

from jax.sharding import Mesh

from balora_jax import models
from balora_jax.data import Batch
from balora_jax.evaluation.evaluator import Evaluator
from balora_jax.objective.params import Tree
from balora_jax.training.best import Best
from balora_jax.training.loop import Batches
from balora_jax.training.setup import Student
from balora_jax.training.state import TrainState


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """The training set and the base parameters, as `Task.prepare` returns them.

    Attributes:
      base: the parameters of the model; for a classifier, with the head that the run starts from.
      examples: the training set; for a classifier, with the teacher's outputs.
      pretrained: the modules of the base that are trained whole, as pre-trained; None for those of
        `base`.
    """

    base: Tree
    examples: Any
    pretrained: Tree | None = None


class Task(Protocol):
    """The data sets of a run, with their batches and evaluation.

    A task is made from (config, tokenizer), which reads and tokenizes the data sets.

    Attributes:
      sets: all tokenized data sets.
      training_sets: those that decide the trained weights: the training set, and the held-out sets,
        which choose the best checkpoint.
      examples: the number of training examples.
      length: tokens of the longest batch.
      counted: the most tokens of an example that the loss counts; 1 for a class.
      counts: a line for each data set, on its rows.
      layout: the rows of an update's batch in words, known after `prepare`.
      evaluator: the evaluator of the held-out sets; None if there are none.
    """

    sets: Sequence[Any]
    training_sets: Sequence[Any]
    examples: int
    length: int
    counted: int
    counts: Sequence[str]
    layout: str
    evaluator: Evaluator | None

    def prepare(
        self, loaded: models.Loaded, mesh: Mesh, steps: int, head: Tree | None
    ) -> TrainingData:
        """Compute the outputs of the pre-trained model that the run needs before it starts.

        Args:
          loaded: the pre-trained model.
          mesh: the devices.
          steps: updates in the run.
          head: the head of step 0 of a resumed run; None otherwise.
        """
        ...

    def batches(self, training_data: TrainingData, steps: int) -> Batches:
        """Return the training batches, from the first one.

        Args:
          training_data: from `prepare`.
          steps: updates in the run.
        """
        ...

    def batch_kinds(self, training_data: TrainingData, steps: int) -> list[Batch]:
        """Return a batch of each shape that the run has, or its shapes: the longest first.

        Of a long run it is the shapes of a sample; others are met on the way.

        Args:
          training_data: from `prepare`.
          steps: updates in the run.
        """
        ...

    def best(self) -> Best:
        """Return a new tracker of the best held-out evaluation."""
        ...

    def finish(
        self, student: Student, state: TrainState, predictions: pathlib.Path
    ) -> dict[str, float]:
        """Measure the out-of-domain sets and write the predictions on unlabeled sets.

        Args:
          student: the model and its frozen weights.
          state: the state that is exported.
          predictions: the folder of predictions.

        Returns:
          The measures by name.
        """
        ...
