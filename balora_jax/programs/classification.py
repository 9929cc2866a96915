"""A run on classes or scores: texts, batches of a few lengths, the teacher's word on each example, the metrics."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from balora_jax import data, models, objective, scores
from balora_jax.assembly import Assembly, Tree, replace, take
from balora_jax.config import RunConfig
from balora_jax.data import LabeledTexts
from balora_jax.programs.compiled import CompiledStep
from balora_jax.schedules import weights_at
from balora_jax.tasks import classification
from balora_jax.tasks.linear_probe import fit_head
from balora_jax.training.best import Best
from balora_jax.training.optimizer import learning_rate
from balora_jax.training.run_folder import RunFolder
from balora_jax.training.sharding import batch_sharding, put, tree_shardings
from balora_jax.training.state import combine
from balora_jax.training.step import make_train_step, whole_batch


class Classification:
    """What a run on classes or scores reads, compiles and measures.

    Attributes:
      sets: the tokenized sets.
      examples: how many are trained on.
      length: tokens of the longest batch.
      counts: a line for each set, saying what became of its rows.
    """

    def __init__(self, config: RunConfig, tokenizer: Any) -> None:
        """Reads the examples; raises BadInput where they cannot be used."""
        self._config, self._read = config, data.read_text_sets(config.data, tokenizer)
        self._train, self._task = self._read.train, self._read.task
        self._scores = self._task.scores is not None
        self._micro = config.training.batch_size // config.training.accumulation
        self.sets, self.examples = self._read.all, len(self._train)
        others = (self._read.held_out, self._read.elsewhere, self._read.unlabeled)
        named = [("train", self._train), *(item for sets in others for item in sets.items())]
        self.counts = [f"{name}: {texts}" for name, texts in named]
        absent = [name for number, name in enumerate(self._task.labels) if number not in self._train.labels]
        if absent:
            self.counts.append(f"note: no training example is of class {', '.join(absent)}: it will not be learned")
        longest = max(int(texts.lengths.max()) for texts in self.sets)
        self._buckets = data.bucket_lengths(longest, config.data.max_length)
        self.length = self._buckets[-1]

    def prepare(self, loaded: models.Loaded, mesh: Mesh, steps: int, head: Tree | None) -> models.Loaded:
        """Asks the pre-trained model, once, for its word on every example the run will show, and fits the probe.

        An example has one answer of the pre-trained model, whatever the step: so the teacher runs before the training,
        not in it.

        Args:
          loaded: the untouched model.
          mesh: where it lies.
          steps: updates in the run.
          head: the head of step 0 of a run that is gone on with.

        Returns:
          The model with the head that the run starts from.
        """
        consistency, training = self._config.active_regularizers.consistency, self._config.training
        base = loaded.params if head is None else replace(loaded.params, head)
        probing = consistency.teacher_head == "probe" and head is None
        if probing or consistency.weight > 0:
            rows = np.arange(self.examples) if probing else self._seen(steps)
            model = loaded.model.clone(dtype=jnp.dtype(training.precision))
            features = self._features(model, base, mesh, rows)
            own = take(base, models.head_modules(model))
            if probing:
                labels = jnp.asarray(self._train.labels)
                exact = loaded.model.clone(dtype=jnp.float32)
                own = fit_head(exact, own, jnp.asarray(features), labels, scores=self._scores)
                base = replace(base, jax.tree.map(jax.device_put, own, tree_shardings(mesh, {"base": own})["base"]))
            if consistency.weight > 0:
                fixed = consistency.teacher_head != "student"
                teacher = _read_by(model, own, features) if fixed else features
                self._train = dataclasses.replace(self._train, teacher=teacher)
        return loaded._replace(params=base)

    def _features(self, model: Any, base: Tree, mesh: Mesh, rows: np.ndarray) -> np.ndarray:
        """[examples, d]; zeros for those not in `rows`."""
        features = jax.jit(classification.make_features(model), out_shardings=NamedSharding(mesh, P()))
        return self._over(self._train, mesh, lambda batch: features(base, batch), rows)

    def _over(self, texts: LabeledTexts, mesh: Mesh, function: Callable, rows: np.ndarray | None = None) -> np.ndarray:
        """What the function gives for each text, [examples, ...] float32, in the texts' order."""
        sharding, found = batch_sharding(mesh), []
        for some, arrays in data.eval_text_batches(texts, self._micro, self._buckets, rows):
            batch = {name: put(array[None], sharding)[0] for name, array in arrays.items()}
            found.append((some, function(batch)))
        out = np.zeros((len(texts), *found[0][1].shape[1:]), np.float32)
        for some, values in found:
            out[some] = np.asarray(values, np.float32)[: len(some)]
        return out

    def batches(self, steps: int) -> Any:
        """The batches to train on."""
        training = self._config.training
        return data.train_text_batches(self._train, training.batch_size, self._buckets, steps=steps, seed=training.seed)

    def _seen(self, steps: int) -> np.ndarray:
        """The training examples that a run of so many steps shows."""
        training = self._config.training
        return data.seen_rows(self._train, training.batch_size, steps=steps, seed=training.seed)

    def compile(self, run: Assembly, steps: int, mesh: Mesh) -> CompiledStep:
        """Compiles the update for the longest batches; the other lengths follow when they come."""
        terms, training = self._config.active_regularizers, self._config.training
        loss = classification.make_loss(run.model, run.spec, terms, scores=self._scores)
        rate = learning_rate(self._config.optimizer, steps)
        update = make_train_step(whole_batch(loss), run.optimizer, run.mask, weights_at(terms, steps), rate)
        compiled = CompiledStep(update, run, mesh, training.accumulation)
        seen = self._seen(steps)
        longest = seen[self._train.lengths[seen].argmax()]
        compiled.compile(data.collate_texts(self._train, np.full(training.batch_size, longest), self._buckets))
        return compiled

    def evaluate(self, run: Assembly, mesh: Mesh) -> Callable[[Any], dict[str, float]] | None:
        """state -> the held-out loss and metrics, or None when nothing is held out."""
        if not self._read.held_out:
            return None
        logits = self._make_logits(run, mesh)

        def evaluate(state: Any) -> dict[str, float]:
            found = {name: (logits(state, texts), texts.labels) for name, texts in self._read.held_out.items()}
            everything = (np.concatenate(parts) for parts in zip(*found.values(), strict=True))
            loss = objective.classification_error(*map(jnp.asarray, everything), scores=self._scores)
            return {"eval_loss": float(loss)} | self._scored(found, "eval_")

        return evaluate

    def best(self) -> Best:
        """Judges by the first metric of the first held-out set."""
        first = next(iter(self._read.held_out), "")
        name = _key(first, self._task.metrics[0], len(self._read.held_out))
        return Best(f"eval_{name}", higher=True, patience=self._config.training.patience)

    def finish(self, run: Assembly, mesh: Mesh, folder: RunFolder) -> dict[str, float]:
        """Scores the sets from elsewhere and writes the predictions asked for."""
        logits = self._make_logits(run, mesh)
        for file, texts in self._read.unlabeled.items():
            predictions = scores.predict(logits(run.state, texts), scores=self._scores)
            if jax.process_index() == 0:
                data.write_predictions(folder.predictions / file, self._task, predictions)
        found = {name: (logits(run.state, texts), texts.labels) for name, texts in self._read.elsewhere.items()}
        return self._scored(found, "", always_named=True)

    def _make_logits(self, run: Assembly, mesh: Mesh) -> Callable[[Any, LabeledTexts], np.ndarray]:
        function = classification.make_logits(run.model, run.spec)
        replicated = NamedSharding(mesh, P())

        def one(trainable: Tree, frozen: Tree, batch: dict[str, jax.Array]) -> jax.Array:
            return function(combine(trainable, frozen, run.mask), batch)

        step = jax.jit(one, out_shardings=replicated)
        return lambda state, texts: self._over(texts, mesh, lambda batch: step(state.trainable, run.frozen, batch))

    def _scored(
        self, found: dict[str, tuple[np.ndarray, np.ndarray]], prefix: str, always_named: bool = False
    ) -> dict[str, float]:
        measured = {}
        for name, (logits, labels) in found.items():
            predictions = scores.predict(logits, scores=self._scores)
            for metric, value in scores.score(self._task.metrics, predictions, labels).items():
                measured[prefix + _key(name, metric, 2 if always_named else len(found))] = value
        return measured


def _key(name: str, metric: str, sets: int) -> str:
    """A metric's name, with its set's where there are several."""
    return metric if sets < 2 else f"{name}/{metric}"


def _read_by(model: Any, head: Tree, features: np.ndarray) -> np.ndarray:
    """What a head makes of features: [examples, D] logits."""
    read = jax.jit(lambda head, features: model.apply({"params": head}, features, method="classify"))
    return np.asarray(read(jax.device_get(head), jnp.asarray(features)), np.float32)
