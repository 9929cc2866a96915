"""The common part of tasks on labeled texts: data sets, batches of a few lengths, predictions."""

import abc
import pathlib

import grain
import jax
import numpy as np
from jax.sharding import Mesh

from balora_jax import data, models
from balora_jax.config import RunConfig
from balora_jax.data import Batch
from balora_jax.evaluation.glue import TextEvaluator
from balora_jax.objective.params import Tree
from balora_jax.runs.task import TrainingData
from balora_jax.training.best import Best
from balora_jax.training.loop import Batches
from balora_jax.training.setup import Student
from balora_jax.training.state import TrainState


class TextRun(abc.ABC):
    """A task on labeled texts; see `runs.task.Task` for the attributes and methods."""

    counted = 1

    def __init__(self, config: RunConfig, sets: data.TextSets) -> None:
        """Prepare the batches and the evaluator.

        Args:
          config: the run.
          sets: the tokenized training, held-out, out-of-domain and unlabeled sets.
        """
        self._config = config
        self._sets = sets
        self._train = sets.train
        self._micro_batch = config.training.batch_size // config.training.accumulation
        self.sets = sets.all
        self.training_sets = [sets.train, *sets.held_out.values()]
        self.examples = len(sets.train)
        self.counts = _counts(sets)
        longest = max(int(texts.lengths.max()) for texts in self.sets)
        self._lengths = data.bucket_lengths(longest, config.data.max_length)
        self.length = self._lengths[-1]
        self.layout = (
            f"{config.training.batch_size:,} rows of like lengths, at most {self.length:,} tokens"
        )
        self._text_evaluator = self._make_evaluator()
        self.evaluator = self._text_evaluator if sets.held_out else None

    @abc.abstractmethod
    def _make_evaluator(self) -> TextEvaluator:
        """Make the evaluator for the kind of model."""

    def prepare(
        self, loaded: models.Loaded, mesh: Mesh, steps: int, head: Tree | None
    ) -> TrainingData:
        """Return the training set unchanged."""
        return TrainingData(loaded.params, self._train)

    def _order(self, examples: data.Examples, steps: int) -> grain.MapDataset:
        training = self._config.training
        return data.windowed_order(examples, training.batch_size, steps=steps, seed=training.seed)

    def batches(self, training_data: TrainingData, steps: int) -> Batches:
        """Return shuffled batches, each of texts of similar length."""
        examples = training_data.examples
        return data.train_batches(
            self._order(examples, steps),
            lambda rows: data.collate(examples, rows, self._lengths),
        )

    def batch_kinds(self, training_data: TrainingData, steps: int) -> list[Batch]:
        """Return a batch of each length: a training text of that length, repeated."""
        examples = training_data.examples
        sampled = data.sampled_lengths(examples, self._order(examples, steps), steps)
        used = data.used_lengths(sampled, self._lengths)
        seen = self._seen(steps)
        places = np.searchsorted(self._lengths, examples.lengths[seen])
        kinds = []
        for place in np.unique(places)[::-1]:
            # The longest text may be none of the sample.
            if not kinds or self._lengths[place] in used:
                text = seen[places == place][0]
                rows = np.full(self._config.training.batch_size, text)
                kinds.append(data.collate(examples, rows, self._lengths))
        return kinds

    def best(self) -> Best:
        """Return a tracker of the first metric of the first held-out set."""
        patience = self._config.training.patience
        return Best(self._text_evaluator.first_metric, higher=True, patience=patience)

    def finish(
        self, student: Student, state: TrainState, predictions: pathlib.Path
    ) -> dict[str, float]:
        """Measure the out-of-domain sets and write the predictions on unlabeled sets."""
        evaluator = self._text_evaluator
        measures = {}
        for file, texts in self._sets.unlabeled.items():
            outputs = evaluator.outputs(student, state, texts)
            for name, value in evaluator.unlabeled_measures(outputs).items():
                measures[f"{file}/{name}"] = value
            if jax.process_index() == 0:
                predicted = evaluator.predictions(outputs)
                data.write_predictions(predictions / file, evaluator.task, predicted)
        return measures | evaluator.score(student, state, self._sets.out_of_domain)

    def _seen(self, steps: int) -> np.ndarray:
        """The indices of the training examples in a run of `steps` updates."""
        training = self._config.training
        return data.shown_rows(self._train, training.batch_size, steps=steps, seed=training.seed)


def _counts(sets: data.TextSets) -> list[str]:
    """A line for each set, and a note on classes without training examples."""
    named = [("train", sets.train)]
    for group in (sets.held_out, sets.out_of_domain, sets.unlabeled):
        named += group.items()
    counts = [f"{name}: {texts}" for name, texts in named]
    counts[1:1] = [f"  {part}" for part in sets.train.parts]
    absent = [
        name for number, name in enumerate(sets.task.labels) if number not in sets.train.labels
    ]
    if absent:
        counts.append(
            f"note: no training example is of class {', '.join(absent)}: it will not be learned"
        )
    return counts
