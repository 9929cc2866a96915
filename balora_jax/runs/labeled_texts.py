"""What all runs on labeled texts share: the sets, batches of a few lengths, the metrics, the predictions asked for."""

import abc
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from balora_jax import data, models
from balora_jax.evaluation import metrics
from balora_jax.runs.setup import Assembly, Tree
from balora_jax.config import RunConfig
from balora_jax.data import Examples
from balora_jax.training.compiled_step import CompiledStep
from balora_jax.training.best import Best
from balora_jax.training.run_folder import RunFolder
from balora_jax.training.sharding import batch_sharding, put

# What a model says of a set's texts, one row each; what it is, the kind of run knows.
Said = Any


class TextRun(abc.ABC):
    """What a run on labeled texts reads and measures; a kind of run adds the update and what its model says of a text.

    Attributes:
      sets: the tokenized sets.
      examples: how many are trained on.
      length: tokens of the longest batch.
      counted: tokens of an example that the loss can count; of a class by itself, 1.
      counts: a line for each set, saying what became of its rows.
    """

    def __init__(self, config: RunConfig, read: data.TextSets) -> None:
        """Takes the examples that were read."""
        self._config, self._read = config, read
        self._train, self._task = read.train, read.task
        self._scores = self._task.scores is not None
        self._micro = config.training.batch_size // config.training.accumulation
        self.sets, self.examples = read.all, len(self._train)
        others = (read.held_out, read.out_of_domain, read.unlabeled)
        named = [("train", self._train), *(item for sets in others for item in sets.items())]
        self.counts = [f"{name}: {texts}" for name, texts in named]
        absent = [name for number, name in enumerate(self._task.labels) if number not in self._train.labels]
        if absent:
            self.counts.append(f"note: no training example is of class {', '.join(absent)}: it will not be learned")
        longest = max(texts.longest for texts in self.sets)
        self._buckets = data.bucket_lengths(longest, config.data.max_length)
        self.length, self.counted = self._buckets[-1], 1
        self._say: Callable[[Any, Examples], Said] | None = None

    def prepare(self, loaded: models.Loaded, mesh: Mesh, steps: int, head: Tree | None) -> models.Loaded:
        """Nothing, unless the kind of run has something to ask the pre-trained model first."""
        return loaded

    def batches(self, steps: int) -> Any:
        """The batches to train on."""
        training = self._config.training
        order = data.windowed_order(self._train, training.batch_size, steps=steps, seed=training.seed)
        return data.train_batches(self._train, order, self._buckets)

    def evaluate(self, run: Assembly, mesh: Mesh) -> Callable[[Any], dict[str, float]] | None:
        """state -> the held-out loss and metrics, or None when nothing is held out."""
        sets = self._read.held_out
        if not sets:
            return None
        say, loss = self._sayer(run, mesh), self._make_held_out_loss(run, mesh)

        def evaluate(state: Any) -> dict[str, float]:
            said = {name: say(state, texts) for name, texts in sets.items()}
            return {"eval_loss": loss(state, said)} | self._scored(said, sets, "eval_")

        return evaluate

    def best(self) -> Best:
        """Judges by the first metric of the first held-out set."""
        first = next(iter(self._read.held_out), "")
        name = _key(first, self._task.metrics[0], len(self._read.held_out))
        return Best(f"eval_{name}", higher=True, patience=self._config.training.patience)

    def finish(self, run: Assembly, mesh: Mesh, folder: RunFolder) -> dict[str, float]:
        """Scores the out-of-domain sets and writes the predictions asked for."""
        say, measured = self._sayer(run, mesh), {}
        for file, texts in self._read.unlabeled.items():
            said = say(run.state, texts)
            measured |= {f"{file}/{name}": value for name, value in self._unlabeled_measures(said).items()}
            if jax.process_index() == 0:
                data.write_predictions(folder.predictions / file, self._task, self._predict(said))
        said = {name: say(run.state, texts) for name, texts in self._read.out_of_domain.items()}
        return measured | self._scored(said, self._read.out_of_domain, "", always_named=True)

    def _sayer(self, run: Assembly, mesh: Mesh) -> Callable[[Any, Examples], Said]:
        """`_make_say`'s, made once: its programs serve the whole run."""
        self._say = self._say or self._make_say(run, mesh)
        return self._say

    @abc.abstractmethod
    def _make_say(self, run: Assembly, mesh: Mesh) -> Callable[[Any, Examples], Said]:
        """(state, texts) -> what the model says of each."""

    @abc.abstractmethod
    def _make_held_out_loss(self, run: Assembly, mesh: Mesh) -> Callable[[Any, dict[str, Said]], float]:
        """(state, what the model says of every held-out set) -> the mean loss over all of them."""

    @abc.abstractmethod
    def _predict(self, said: Said) -> np.ndarray:
        """[examples], the classes or scores meant by what was said."""

    def _measures(self, said: Said, labels: np.ndarray) -> dict[str, float]:
        """What a labeled set came to."""
        return metrics.score(self._task.metrics, self._predict(said), labels)

    def _unlabeled_measures(self, said: Said) -> dict[str, float]:
        """What there is to tell of a set without labels."""
        return {}

    def _scored(
        self, said: dict[str, Said], sets: dict[str, Examples], prefix: str, always_named: bool = False
    ) -> dict[str, float]:
        number = 2 if always_named else len(sets)
        measured = {name: self._measures(said[name], texts.labels) for name, texts in sets.items()}
        return {prefix + _key(name, metric, number): v for name, of in measured.items() for metric, v in of.items()}

    def _over(self, texts: Examples, mesh: Mesh, function: Callable, rows: np.ndarray | None = None) -> Tree:
        """What the function gives for each text, arrays [examples, ...] in the texts' order, 0 for those not asked."""
        sharding, found = batch_sharding(mesh), []
        order = data.length_order(texts, self._micro, rows)
        for some, arrays in data.eval_batches(texts, order, self._buckets):
            batch = jax.tree.map(lambda array: put(array[None], sharding)[0], arrays)
            found.append((some, function(batch)))
        out = jax.tree.map(lambda leaf: np.zeros((len(texts), *leaf.shape[1:]), leaf.dtype), found[0][1])
        for some, values in found:
            for whole, part in zip(jax.tree.leaves(out), jax.tree.leaves(values), strict=True):
                whole[some] = np.asarray(part)[: len(some)]
        return out

    def _seen(self, steps: int) -> np.ndarray:
        """The training examples that a run of so many steps shows."""
        training = self._config.training
        return data.shown_rows(self._train, training.batch_size, steps=steps, seed=training.seed)

    def _compiled(self, update: Callable, run: Assembly, steps: int, mesh: Mesh) -> CompiledStep:
        """The update, compiled for the longest batches; the other lengths follow when they come."""
        training = self._config.training
        compiled, seen = CompiledStep(update, run, mesh, training.accumulation), self._seen(steps)
        longest = seen[self._train.lengths[seen].argmax()]
        compiled.compile(data.collate(self._train, np.full(training.batch_size, longest), self._buckets))
        return compiled


def _key(name: str, metric: str, sets: int) -> str:
    """A metric's name, with its set's where there are several."""
    return metric if sets < 2 else f"{name}/{metric}"
