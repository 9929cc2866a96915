"""The interface of evaluators, which measure a model during or after a run."""

from typing import Protocol

from balora_jax.training.setup import Student
from balora_jax.training.state import TrainState


class Evaluator(Protocol):
    """A measurement of a model: (student, state) -> numbers by name."""

    def __call__(self, student: Student, state: TrainState) -> dict[str, float]:
        """Measure the model.

        Args:
          student: the model and its frozen weights.
          state: the state with its trained weights.

        Returns:
          Numbers by name. A held-out evaluation returns the mean loss as `loss`.
        """
        ...
