"""lm-eval's tasks asked of a model in training, at each of its evaluations."""

from collections.abc import Sequence
from typing import Any

from balora_jax.evaluation.evaluator import Evaluator
from balora_jax.evaluation.language_model import LanguageModel
from balora_jax.training.setup import Student
from balora_jax.training.sharding import row_sharding
from balora_jax.training.state import TrainState


class TaskProbe:
    """An Evaluator that also asks the model tasks; a measure is called `task/metric`."""

    def __init__(
        self,
        evaluator: Evaluator,
        tasks: Any,
        tokenizer: Any,
        end_ids: Sequence[int],
        *,
        limit: int,
    ) -> None:
        """Extend an evaluator.

        Args:
          evaluator: of the held-out set.
          tasks: from `evaluation.harness.tasks.load_tasks`.
          tokenizer: the tokenizer of the model.
          end_ids: tokens that end an answer besides EOS.
          limit: the first examples of each task that are asked, this many.
        """
        self._evaluator = evaluator
        self._tasks = tasks
        self._tokenizer = tokenizer
        self._end_ids = tuple(end_ids)
        self._limit = limit

    def check_room(self, model: Any) -> None:
        """Check that a model has room for the answers that the tasks ask for.

        Args:
          model: the Linen module.

        Raises:
          BadInput: a task's answers alone are as long as the model reads.
        """
        self._tasks.check_room(model.config.max_positions)

    def __call__(self, student: Student, state: TrainState) -> dict[str, float]:
        """Measure the model.

        Args:
          student: the model and its frozen weights; a causal language model.
          state: the state with its trained weights.

        Returns:
          The measures by name.
        """
        # lm-eval is an extra of the package.
        from balora_jax.evaluation.harness.model import HarnessModel
        from balora_jax.evaluation.harness.responses import Unkept
        from balora_jax.evaluation.harness.results import values_of
        from balora_jax.evaluation.harness.tasks import run_tasks

        measures = self._evaluator(student, state)
        model = LanguageModel(
            "model",
            student.model,
            student.params(state).base,
            student.lora(state) or None,
            self._tokenizer,
            end_ids=self._end_ids,
            sharding=row_sharding(student.setup.mesh),
        )
        asked = HarnessModel(model, Unkept(), begin=lambda count: None, show=lambda count: None)
        found = run_tasks(self._tasks, asked, limit=self._limit, fewshot=None, chat=False)
        return measures | values_of(found)
