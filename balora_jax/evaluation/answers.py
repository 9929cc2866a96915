"""The held-out evaluation of a text-to-text model, from the answers that it generates."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from balora_jax import data, generation
from balora_jax.adapters import AdapterSpec, student_lora
from balora_jax.data import Batch, Examples, TextTask
from balora_jax.evaluation import metrics
from balora_jax.evaluation.glue import Outputs, TextEvaluator
from balora_jax.evaluation.held_out import HeldOutLoss
from balora_jax.objective import seq2seq_lm
from balora_jax.objective.params import Params
from balora_jax.training.setup import Student
from balora_jax.training.state import TrainState

# The name of a measure: the share of answers that are not a label.
NO_LABEL = "no_label"


class AnswerEvaluator(TextEvaluator):
    """An Evaluator of text-to-text models; the outputs are the classes or scores in their answers.

    An answer that is not a label is -1 among classes and NaN among scores. In the metrics it counts
    as a wrong class or as the lowest score. In predictions it is the first class or the lowest
    score.
    """

    def __init__(
        self,
        task: TextTask,
        held_out: Mapping[str, Examples],
        tokenizer: Any,
        *,
        max_tokens: int,
        batch_size: int,
        lengths: Sequence[int],
    ) -> None:
        """Set the held-out sets.

        Args:
          task: the fields, labels and metrics.
          held_out: the held-out sets by name.
          tokenizer: the model's tokenizer, which decodes the answers.
          max_tokens: the length of the longest answer.
          batch_size: texts evaluated at once.
          lengths: the lengths that batches are padded to.
        """
        super().__init__(task, held_out, batch_size=batch_size, lengths=lengths)
        self._answers = data.Answers(task, tokenizer)
        self._eos_id = tokenizer.eos_token_id
        self._max_tokens = max_tokens
        self._held_out_loss = HeldOutLoss(seq2seq_lm.make_task_loss, self._held_out_batches)

    def outputs(self, student: Student, state: TrainState, texts: Examples) -> Outputs:
        """Return the class or score in the model's answer to every text: [examples]."""
        setup = student.setup
        params = student.params(state)
        replicated = NamedSharding(setup.mesh, P())

        def answers(batch: Batch) -> generation.Generated:
            return _answers(
                setup.model,
                setup.spec,
                replicated,
                self._max_tokens,
                self._eos_id,
                params,
                batch.input_ids,
                batch.attention_mask,
            )

        tokens, lengths = self._apply_to_batches(texts, setup.mesh, answers)
        return self._answers.read(tokens, lengths)

    def predictions(self, outputs: Outputs) -> np.ndarray:
        """Return the classes or scores, with a default for answers that are not a label.

        Args:
          outputs: from `outputs`.

        Returns:
          [examples]; the first class or the lowest score where the answer is not a label.
        """
        default = self.task.scores[0] if self.regression else 0
        return np.where(self._is_no_label(outputs), default, outputs)

    def measures(self, outputs: Outputs, labels: np.ndarray) -> dict[str, float]:
        """Compute the metrics of a labeled set, and the share of answers that are not a label.

        Args:
          outputs: from `outputs`.
          labels: [examples], classes or scores.
        """
        predictions = self.predictions(outputs)
        if not self.regression:
            no_label = self._is_no_label(outputs)
            classes = self.task.outputs
            predictions = metrics.count_as_wrong(predictions, no_label, labels, classes)
        values = metrics.score(self.task.metrics, predictions, labels)
        return values | self.unlabeled_measures(outputs)

    def unlabeled_measures(self, outputs: Outputs) -> dict[str, float]:
        """Compute the share of answers that are not a label."""
        return {NO_LABEL: float(np.mean(self._is_no_label(outputs)))}

    def _loss(self, student: Student, state: TrainState, outputs: Mapping[str, Outputs]) -> float:
        return self._held_out_loss(student, state)["loss"]

    def _held_out_batches(self) -> Iterator[tuple[np.ndarray, Batch]]:
        for texts in self._held_out.values():
            order = data.length_order(texts, self._batch_size)
            yield from data.eval_batches(texts, order, self._lengths)

    def _is_no_label(self, outputs: Outputs) -> np.ndarray:
        """[examples], True where the answer is not a label."""
        return np.isnan(outputs) if self.regression else outputs == data.NO_CLASS


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _answers(
    model: Any,
    spec: AdapterSpec,
    sharding: NamedSharding,
    max_tokens: int,
    eos_id: int,
    params: Params,
    input_ids: jax.Array,
    attention_mask: jax.Array,
) -> generation.Generated:
    """Generate the answers to a batch by greedy decoding."""
    answers = generation.answer(
        model,
        params.base,
        student_lora(params.adapters, params.initial, spec),
        input_ids,
        attention_mask,
        max_new_tokens=max_tokens,
        eos_ids=(eos_id,),
    )
    return jax.lax.with_sharding_constraint(answers, sharding)
