"""The interface of the kinds of run: the sets that one reads, its batches, its evaluation."""

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
    """Examples to train on, as `Task.prepare` completes them, and the base to start from.

    Attributes:
      base: the model's parameters; a classifier's with the head that the run starts from.
      examples: the training set; a classifier's with the teacher's outputs.
    """

    base: Tree
    examples: Any


class Task(Protocol):
    """One kind of run, made of (config, tokenizer); making it reads and tokenizes the sets.

    Attributes:
      sets: every tokenized set.
      examples: the number of training examples.
      length: tokens of the longest batch.
      counted: tokens of an example that the loss can count; 1 for a class.
      counts: a line for each set, telling what became of its rows.
      evaluator: measures the held-out sets; None without any.
    """

    sets: Sequence[Any]
    examples: int
    length: int
    counted: int
    counts: Sequence[str]
    evaluator: Evaluator | None

    def prepare(
        self, loaded: models.Loaded, mesh: Mesh, steps: int, head: Tree | None
    ) -> TrainingData:
        """Ask the pre-trained model what the run needs of it before the first update.

        Args:
          loaded: the untouched model.
          mesh: the devices.
          steps: updates in the run.
          head: the head of step 0 of a resumed run.
        """
        ...

    def batches(self, training_data: TrainingData, steps: int) -> Batches:
        """The batches to train on, from the first."""
        ...

    def longest_batch(self, training_data: TrainingData, steps: int) -> Batch:
        """A batch of the longest length, or its shapes; the run compiles for it first."""
        ...

    def best(self) -> Best:
        """A fresh judge of held-out evaluations."""
        ...

    def finish(
        self, student: Student, state: TrainState, predictions: pathlib.Path
    ) -> dict[str, float]:
        """Measure out-of-domain sets and write the predictions that were asked for.

        Args:
          student: the model.
          state: the state that is exported.
          predictions: the folder of predictions.

        Returns:
          Numbers by name.
        """
        ...
