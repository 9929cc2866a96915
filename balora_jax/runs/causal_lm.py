"""The task of next-token prediction: prompts and answers, batches of one length, held-out loss."""

import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from jax.sharding import Mesh

from balora_jax import data, models
from balora_jax.config import RunConfig
from balora_jax.data import Batch
from balora_jax.evaluation.held_out import HeldOutLoss
from balora_jax.evaluation.inheritance.passages import read_passages
from balora_jax.evaluation.probe_text import TextProbe
from balora_jax.objective import causal_lm
from balora_jax.objective.params import Tree
from balora_jax.runs.asked_tasks import with_tasks
from balora_jax.runs.setup import batch_shapes
from balora_jax.runs.task import TrainingData
from balora_jax.training.best import Best
from balora_jax.training.loop import Batches
from balora_jax.training.setup import Student
from balora_jax.training.state import TrainState


class CausalLM:
    """The task causal-lm; see `runs.task.Task` for the attributes and methods."""

    def __init__(self, config: RunConfig, tokenizer: Any) -> None:
        """Read and tokenize the data sets.

        Args:
          config: the run.
          tokenizer: the tokenizer of the model.

        Raises:
          BadInput: a data set cannot be used.
        """
        self._config = config
        sets = {"train": data.prepare(config.data, tokenizer, split="train")}
        if config.data.holds_out:
            sets["eval"] = data.prepare(config.data, tokenizer, split="eval")
        self._train = sets["train"]
        self.sets = list(sets.values())
        self.training_sets = self.sets
        self.examples = len(self._train)
        self.counts = [f"{name + ':':6} {examples}" for name, examples in sets.items()]
        self.counts[1:1] = [f"  {part}" for part in self._train.parts]
        self.length = data.padded_length(*self.sets, max_length=config.data.max_length)
        self.counted = config.data.max_length

        self.evaluator = None
        if "eval" in sets:
            self._held_out = sets["eval"]
            self._micro_batch = config.training.batch_size // config.training.accumulation
            self.evaluator = HeldOutLoss(causal_lm.make_task_loss, self._held_out_batches)
            if config.evaluation.probe_text is not None:
                options = config.evaluation
                passages = read_passages(
                    "evaluation.probe_text", options.probe_text, options.probe_limit
                )
                self.evaluator = TextProbe(self.evaluator, passages, tokenizer)
            self.evaluator = with_tasks(self.evaluator, config, tokenizer)

    def _held_out_batches(self) -> Iterator[tuple[np.ndarray, Batch]]:
        order = data.given_order(self._held_out, self._micro_batch)
        return data.eval_batches(self._held_out, order, (self.length,))

    def prepare(
        self, loaded: models.Loaded, mesh: Mesh, steps: int, head: Tree | None
    ) -> TrainingData:
        """Return the training set unchanged, because the teacher runs in the step."""
        return TrainingData(loaded.params, self._train, loaded.pretrained)

    def batches(self, training_data: TrainingData, steps: int) -> Batches:
        """Return shuffled batches of one length."""
        training = self._config.training
        examples = training_data.examples
        order = data.shuffled_order(examples, training.batch_size, training.seed)
        return data.train_batches(examples, order, (self.length,))

    def longest_batch(self, training_data: TrainingData, steps: int) -> Batch:
        """Return the shapes of every batch."""
        return batch_shapes(self._config, None, self.length)

    def best(self) -> Best:
        """Return a tracker of the lowest held-out loss."""
        return Best("loss", higher=False, patience=self._config.training.patience)

    def finish(
        self, student: Student, state: TrainState, predictions: pathlib.Path
    ) -> dict[str, float]:
        """Return no measures: the task has no out-of-domain sets."""
        return {}
