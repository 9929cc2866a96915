"""The drift of a model in training from its base, on a small general text."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from balora_jax.adapters import teacher_lora
from balora_jax.evaluation.evaluator import Evaluator
from balora_jax.evaluation.inheritance.collapse import measure_hidden_rank
from balora_jax.evaluation.inheritance.drift import token_sums
from balora_jax.evaluation.language_model import LanguageModel
from balora_jax.training.setup import Student
from balora_jax.training.sharding import row_sharding
from balora_jax.training.state import TrainState

# The names of all measures begin so.
PREFIX = "text_"


class TextProbe:
    """An Evaluator that also compares the model with its untouched base on passages.

    Its measures, beside those of the evaluator that it extends:

      text_kl: KL(base || model), the mean over tokens, nats; 0 before the first update.
      text_agreement: the share of tokens whose likeliest prediction is the base's, 0 to 1.
      text_entropy: the mean entropy of the model's predictions, nats.
      text_loss: the mean loss of the text's tokens, nats.
      text_effective_rank: the effective rank of the last hidden states.
    """

    def __init__(self, evaluator: Evaluator, passages: Sequence[str], tokenizer: Any) -> None:
        """Extend an evaluator.

        Args:
          evaluator: of the held-out set.
          passages: general text, at least one passage.
          tokenizer: the tokenizer of the model.
        """
        self._evaluator = evaluator
        self._passages = passages
        self._tokenizer = tokenizer

    def __call__(self, student: Student, state: TrainState) -> dict[str, float]:
        """Measure the model.

        Args:
          student: the model and its frozen weights; a causal language model with adapters.
          state: the state with its trained weights.

        Returns:
          The measures by name.
        """
        params = student.params(state).base
        before = student.base_params(state)
        # In the residual form the base is the frozen weights and the first adapters together.
        first = teacher_lora(student.frozen.initial, student.setup.spec)
        sharding = row_sharding(student.setup.mesh)
        base = LanguageModel(
            "base", student.model, before, first, self._tokenizer, sharding=sharding
        )
        lora = student.lora(state)
        model = LanguageModel(
            "adapter", student.model, params, lora, self._tokenizer, sharding=sharding
        )
        encoded = [base.encode(passage, special=False) for passage in self._passages]
        sums, counts = token_sums(base, model, encoded)
        tokens = counts.sum()

        def mean(values: np.ndarray) -> float:
            return float(values.sum() / tokens)

        return self._evaluator(student, state) | {
            f"{PREFIX}kl": mean(sums.forward),
            f"{PREFIX}agreement": mean(sums.agree),
            f"{PREFIX}entropy": mean(sums.entropy_after),
            f"{PREFIX}loss": mean(sums.loss_after),
            f"{PREFIX}effective_rank": measure_hidden_rank(model, self._passages),
        }
