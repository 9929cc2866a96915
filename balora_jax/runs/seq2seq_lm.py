"""A run on classes or scores as text: the encoder reads the question, the decoder writes the label's name."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from balora_jax import data
from balora_jax.evaluation import metrics
from balora_jax.runs.setup import Assembly, Tree
from balora_jax.config import RunConfig
from balora_jax.data import Examples
from balora_jax.training.compiled_step import CompiledStep
from balora_jax.evaluation.held_out import mean_loss, several
from balora_jax.runs.labeled_texts import TextRun
from balora_jax.objective.schedules import weights_at
from balora_jax.objective import seq2seq_lm
from balora_jax.training.optimizer import learning_rate
from balora_jax.training.state import combine
from balora_jax.training.step import make_train_step, token_weighted

# The share of answers that are no label, beside the metrics.
NO_LABEL = "no_label"


class TextToText(TextRun):
    """What a run on labels as text reads, compiles and measures; what its model says of a text is a class or a score.

    An answer that is no label is said as -1 or NaN. In the metrics it counts as wrong, for scores as the lowest; in
    predictions it stands as the first class or the lowest score.
    """

    def __init__(self, config: RunConfig, tokenizer: Any) -> None:
        """Reads the examples; raises BadInput where they cannot be used."""
        super().__init__(config, data.read_text_sets(config.data, tokenizer, data.encode_with_answers))
        self._answers, self._eos = data.Answers(self._task, tokenizer), tokenizer.eos_token_id
        self.counted = max(texts.answers.shape[1] for texts in self.sets if texts.answers is not None)

    def compile(self, run: Assembly, steps: int, mesh: Mesh) -> CompiledStep:
        """Compiles the update."""
        terms = self._config.active_regularizers
        loss = seq2seq_lm.make_loss(run.model, run.spec, terms, head_frozen=run.head_frozen, mesh=several(mesh))
        rate = learning_rate(self._config.optimizer, steps)
        update = make_train_step(token_weighted(loss), run.optimizer, run.mask, weights_at(terms, steps), rate)
        return self._compiled(update, run, steps, mesh)

    def _make_say(self, run: Assembly, mesh: Mesh) -> Callable[[Any, Examples], np.ndarray]:
        function = seq2seq_lm.make_answers(run.model, run.spec, max_tokens=self.counted, eos_ids=(self._eos,))

        def one(trainable: Tree, frozen: Tree, batch: data.Batch) -> Any:
            return function(combine(trainable, frozen, run.mask), batch)

        step = jax.jit(one, out_shardings=NamedSharding(mesh, P()))

        def say(state: Any, texts: Examples) -> np.ndarray:
            def written(batch: data.Batch) -> Any:
                # Without what only labeled sets have: one program serves all sets.
                return step(state.trainable, run.frozen, batch._replace(targets=None, mask=None))

            return self._answers.read(*self._over(texts, mesh, written))

        return say

    def _make_held_out_loss(self, run: Assembly, mesh: Mesh) -> Callable[[Any, dict[str, np.ndarray]], float]:
        loss = seq2seq_lm.make_task_loss(run.model, run.spec, head_frozen=run.head_frozen, mesh=several(mesh))

        def batches() -> Iterator[data.Batch]:
            for texts in self._read.held_out.values():
                order = data.length_order(texts, self._micro)
                for _, batch in data.eval_batches(texts, order, self._buckets):
                    yield batch

        mean = mean_loss(run, mesh, loss, batches)
        return lambda state, said: mean(state)

    def _predict(self, said: np.ndarray) -> np.ndarray:
        return np.where(self._is_none(said), self._task.scores[0] if self._scores else 0, said)

    def _measures(self, said: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        predictions = self._predict(said)
        if not self._scores:
            predictions = metrics.count_as_wrong(predictions, self._is_none(said), labels, self._task.outputs)
        return metrics.score(self._task.metrics, predictions, labels) | self._unlabeled_measures(said)

    def _unlabeled_measures(self, said: np.ndarray) -> dict[str, float]:
        return {NO_LABEL: float(np.mean(self._is_none(said)))}

    def _is_none(self, said: np.ndarray) -> np.ndarray:
        """Where an answer was no label."""
        return np.isnan(said) if self._scores else said == data.NO_CLASS
