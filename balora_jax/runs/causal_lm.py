"""A run on next-token prediction: prompts and answers, batches of one length, the held-out loss."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.sharding import Mesh

from balora_jax import data, models
from balora_jax.runs.setup import Assembly, Tree
from balora_jax.config import RunConfig
from balora_jax.training.compiled_step import CompiledStep
from balora_jax.evaluation.held_out import mean_loss, several
from balora_jax.objective.schedules import weights_at
from balora_jax.objective import causal_lm
from balora_jax.training.best import Best
from balora_jax.training.optimizer import learning_rate
from balora_jax.training.run_folder import RunFolder
from balora_jax.training.step import make_train_step, token_weighted


class CausalLM:
    """What a run on next-token prediction reads, compiles and measures.

    Attributes:
      sets: the tokenized sets.
      examples: how many are trained on.
      length: tokens of the longest batch.
      counted: tokens of an example that the loss can count.
      counts: a line for each set, saying what became of its rows.
    """

    def __init__(self, config: RunConfig, tokenizer: Any) -> None:
        """Reads the examples; raises BadInput where they cannot be used."""
        self._config = config
        self._train = data.prepare(config.data, tokenizer, split="train")
        self._held_out = None if config.data.eval is None else data.prepare(config.data, tokenizer, split="eval")
        named = {"train": self._train} | ({} if self._held_out is None else {"eval": self._held_out})
        self.sets, self.examples = list(named.values()), len(self._train)
        self.counts = [f"{name + ':':6} {examples}" for name, examples in named.items()]
        self.length = data.padded_length(*self.sets, max_length=config.data.max_length)
        self.counted = config.data.max_length

    def prepare(self, loaded: models.Loaded, mesh: Mesh, steps: int, head: Tree | None) -> models.Loaded:
        """Nothing: the teacher runs in the step."""
        return loaded

    def batches(self, steps: int) -> Any:
        """The batches to train on."""
        training = self._config.training
        order = data.shuffled_order(self._train, training.batch_size, training.seed)
        return data.train_batches(self._train, order, (self.length,))

    def compile(self, run: Assembly, steps: int, mesh: Mesh) -> CompiledStep:
        """Compiles the update for batches of the run's one length."""
        terms, training = self._config.active_regularizers, self._config.training
        loss = causal_lm.make_loss(run.model, run.spec, terms, head_frozen=run.head_frozen, mesh=several(mesh))
        rate = learning_rate(self._config.optimizer, steps)
        update = make_train_step(token_weighted(loss), run.optimizer, run.mask, weights_at(terms, steps), rate)
        compiled = CompiledStep(update, run, mesh, training.accumulation)
        shape = (training.batch_size, self.length)
        dtypes = data.DTYPES._replace(token_type_ids=None, teacher=None)
        compiled.compile(jax.tree.map(lambda dtype: jax.ShapeDtypeStruct(shape, dtype), dtypes))
        return compiled

    def evaluate(self, run: Assembly, mesh: Mesh) -> Callable[[Any], dict[str, float]] | None:
        """state -> the mean held-out loss over all counted tokens, or None when nothing is held out."""
        if self._held_out is None:
            return None
        micro = self._config.training.batch_size // self._config.training.accumulation
        loss = causal_lm.make_task_loss(run.model, run.spec, head_frozen=run.head_frozen, mesh=several(mesh))

        def batches() -> Iterator[data.Batch]:
            order = data.given_order(self._held_out, micro)
            for _, batch in data.eval_batches(self._held_out, order, (self.length,)):
                yield batch

        mean = mean_loss(run, mesh, loss, batches)
        return lambda state: {"eval_loss": mean(state)}

    def best(self) -> Best:
        """Judges by the held-out loss."""
        return Best("eval_loss", higher=False, patience=self._config.training.patience)

    def finish(self, run: Assembly, mesh: Mesh, folder: RunFolder) -> dict[str, float]:
        """No further measures."""
        return {}
