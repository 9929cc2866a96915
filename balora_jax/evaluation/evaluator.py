"""The interface of everything that measures a model during or after a run."""

from typing import Protocol

from balora_jax.training.setup import Student
from balora_jax.training.state import TrainState


class Evaluator(Protocol):
    """Measures a model: (student, state) -> numbers by name."""

    def __call__(self, student: Student, state: TrainState) -> dict[str, float]:
        """Measure the model as it is in `state`.

        Args:
          student: the model and its frozen weights.
          state: its trained weights.

        Returns:
          Numbers by name. A held-out evaluation has the mean loss as `loss`.
        """
        ...
