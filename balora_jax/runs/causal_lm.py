"""The task of next-token prediction: prompts and answers, packed batches, held-out loss."""

import functools
import math
import pathlib
from collections.abc import Iterator
from typing import Any

import grain
import numpy as np
from jax.sharding import Mesh

from balora_jax import data, models
from balora_jax.config import RunConfig
from balora_jax.data import Batch, PackedRows
from balora_jax.evaluation.held_out import HeldOutLoss
from balora_jax.evaluation.inheritance.passages import read_passages
from balora_jax.evaluation.probe_text import TextProbe
from balora_jax.objective import causal_lm
from balora_jax.objective.params import Tree
from balora_jax.regularizers.nlg import LeadingShare
from balora_jax.regularizers.terms import make_terms
from balora_jax.runs.asked_tasks import with_tasks
from balora_jax.runs.prepared_sets import prepare_set
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
        notices: list[str] = []
        sets = {"train": prepare_set(config.data, tokenizer, "train", notices.append)}
        if config.data.holds_out:
            sets["eval"] = prepare_set(config.data, tokenizer, "eval", notices.append)
        self._train = sets["train"]
        self.sets = list(sets.values())
        self.training_sets = self.sets
        self.examples = len(self._train)
        self.counts = [f"{name + ':':6} {examples}" for name, examples in sets.items()]
        self.counts[1:1] = [f"  {part}" for part in self._train.parts]
        # The same trouble with both sets is said once.
        self.counts += [f"note: {notice}" for notice in dict.fromkeys(notices)]
        self.length = data.padded_length(*self.sets, max_length=config.data.max_length)
        self.counted = config.data.max_length
        self._bucket_lengths = data.bucket_lengths(self.length, config.data.max_length)
        self._packed: PackedRows | None = None

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
        if self._packed is not None:
            rows = self._packed.rows * self._config.groups
            return data.pack_all(self._held_out, rows, self._packed.lengths[-1])
        order = data.given_order(self._held_out, self._micro_batch)
        return data.eval_batches(self._held_out, order, self._bucket_lengths)

    @property
    def layout(self) -> str:
        """The rows of an update's batch."""
        if self._packed is not None:
            return str(self._packed)
        return f"{self._config.training.batch_size:,} rows of at most {self.length:,} tokens"

    def prepare(
        self, loaded: models.Loaded, mesh: Mesh, steps: int, head: Tree | None
    ) -> TrainingData:
        """Plan the rows; the teacher runs in the step, so the training set stays as it is."""
        if _packs(self._config):
            config = self._config
            # Rows are divided over the devices, examples over the groups.
            shards = mesh.shape["data"] * mesh.shape["fsdp"]
            self._packed = data.plan_rows(
                self._train,
                self._order(),
                parts=config.training.accumulation * config.groups,
                multiple=shards // math.gcd(shards, config.groups),
            )
        return TrainingData(loaded.params, self._train, loaded.pretrained)

    def _order(self) -> grain.MapDataset:
        training = self._config.training
        return data.shuffled_order(self._train, training.batch_size, training.seed)

    def batches(self, training_data: TrainingData, steps: int) -> Batches:
        """Return shuffled batches, packed or padded to a few lengths."""
        examples = training_data.examples
        if self._packed is not None:
            return data.train_batches(
                self._order(), functools.partial(self._packed.collate, examples)
            )
        return data.train_batches(
            self._order(), lambda numbers: data.collate(examples, numbers, self._bucket_lengths)
        )

    def batch_kinds(self, training_data: TrainingData, steps: int) -> list[Batch]:
        """Return the shapes of the batches."""
        sampled = data.sampled_lengths(self._train, self._order(), steps)
        if self._packed is None:
            lengths = data.used_lengths(sampled, self._bucket_lengths)
            return [batch_shapes(self._config, None, length) for length in lengths]
        rows = self._packed.parts * self._packed.rows
        return [
            batch_shapes(self._config, None, length, packed_rows=rows)
            for length in self._packed.used_lengths(sampled)
        ]

    def best(self) -> Best:
        """Return a tracker of the lowest held-out loss."""
        return Best("loss", higher=False, patience=self._config.training.patience)

    def finish(
        self, student: Student, state: TrainState, predictions: pathlib.Path
    ) -> dict[str, float]:
        """Return no measures: the task has no out-of-domain sets."""
        return {}


def _packs(config: RunConfig) -> bool:
    """Return True if batches are packed: data.packing, or its default."""
    if config.data.packing is not None:
        return config.data.packing
    if config.model.attention == "cudnn":
        return False
    # Of a batch's logits, the project's own term does not depend on the order of the tokens.
    terms = make_terms(config.acting_terms, "nlg").values()
    return all(term.per == "token" or isinstance(term.function, LeadingShare) for term in terms)
