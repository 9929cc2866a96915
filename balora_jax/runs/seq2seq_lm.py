"""The task of labels as text: the encoder reads a question, the decoder writes the label."""

from typing import Any

from balora_jax import data
from balora_jax.config import RunConfig
from balora_jax.evaluation.answers import AnswerEvaluator
from balora_jax.evaluation.glue import TextEvaluator
from balora_jax.runs.labeled_texts import TextRun


class Seq2SeqLM(TextRun):
    """The task seq2seq-lm; see `runs.task.Task` for the attributes and methods."""

    def __init__(self, config: RunConfig, tokenizer: Any) -> None:
        """Read and tokenize the data sets.

        Args:
          config: the run.
          tokenizer: the tokenizer of the model.

        Raises:
          BadInput: a data set cannot be used.
        """
        sets = data.read_text_sets(config.data, tokenizer, data.encode_with_answers)
        self._tokenizer = tokenizer
        widths = [texts.answers.shape[1] for texts in sets.all if texts.answers is not None]
        self.counted = max(widths)
        super().__init__(config, sets)

    def _make_evaluator(self) -> TextEvaluator:
        return AnswerEvaluator(
            self._sets.task,
            self._sets.held_out,
            self._tokenizer,
            max_tokens=self.counted,
            batch_size=self._micro_batch,
            lengths=self._lengths,
        )
