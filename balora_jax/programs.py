"""The two programs of a run, compiled for its shapes: the update and the held-out loss."""

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from balora_jax import data
from balora_jax.assembly import Assembly
from balora_jax.config import RunConfig
from balora_jax.schedules import weights_at
from balora_jax.tasks import causal_lm
from balora_jax.tiny_world import make_probes, make_questions, make_world, measure
from balora_jax.training.optimizer import learning_rate
from balora_jax.training.sharding import batch_sharding, put
from balora_jax.training.state import combine
from balora_jax.training.step import make_eval_step, make_train_step

# The seed of the world that `balora_jax.tiny_world.make` makes unless told otherwise.
SEED = 0


class CompiledStep(NamedTuple):
    """The update, compiled once for the whole run.

    Attributes:
      step: (state, numpy batch) -> (state, metrics); the state given is overwritten.
      seconds: what compiling took.
      bytes: what a device needs for it, arguments and temporaries.
    """

    step: Callable[[Any, dict[str, np.ndarray]], tuple[Any, dict[str, jax.Array]]]
    seconds: float
    bytes: int


def compile_step(config: RunConfig, run: Assembly, steps: int, length: int, mesh: Mesh) -> CompiledStep:
    """Compiles the update for batches of the run's one shape."""
    terms = config.active_regularizers
    loss = causal_lm.make_loss(run.model, run.spec, terms, head_frozen=run.head_frozen, mesh=_several(mesh))
    rate = learning_rate(config.optimizer, steps)
    update = make_train_step(loss, run.optimizer, run.mask, weights_at(terms, steps), rate)
    micro = config.training.batch_size // config.training.accumulation
    shape, sharding = (config.training.accumulation, micro, length), batch_sharding(mesh)
    kinds = {"input_ids": np.int32, "attention_mask": np.bool_, "targets": np.int32, "mask": np.bool_}
    batch = {name: jax.ShapeDtypeStruct(shape, kind, sharding=sharding) for name, kind in kinds.items()}
    places = jax.tree.map(lambda leaf: leaf.sharding, run.state)
    began = time.monotonic()
    compiled = (
        jax.jit(update, donate_argnums=0, out_shardings=(places, None)).lower(run.state, run.frozen, batch).compile()
    )
    seconds = time.monotonic() - began

    def step(state: Any, arrays: dict[str, np.ndarray]):
        on_device = {name: put(array.reshape(shape), sharding) for name, array in arrays.items()}
        return compiled(state, run.frozen, on_device)

    memory = compiled.memory_analysis()
    return CompiledStep(step, seconds, memory.argument_size_in_bytes + memory.temp_size_in_bytes)


def make_evaluate(config: RunConfig, run: Assembly, held_out: Any, length: int, mesh: Mesh) -> Callable[[Any], float]:
    """state -> mean held-out loss over all counted tokens."""
    micro = config.training.batch_size // config.training.accumulation
    sharding = batch_sharding(mesh)
    loss = causal_lm.make_task_loss(run.model, run.spec, head_frozen=run.head_frozen, mesh=_several(mesh))
    step = jax.jit(make_eval_step(loss, run.mask))

    def batches() -> Iterator[dict[str, jax.Array]]:
        for arrays in data.eval_batches(held_out, micro, length):
            yield {name: put(array[None], sharding)[0] for name, array in arrays.items()}

    def evaluate(state: Any) -> float:
        sums = [step(state.trainable, run.frozen, batch) for batch in batches()]
        losses, tokens = np.asarray(jax.device_get(sums)).T
        return float(losses.sum() / tokens.sum())

    return evaluate


def _several(mesh: Mesh) -> Mesh | None:
    return mesh if mesh.size > 1 else None


def make_probe(config: RunConfig, run: Assembly, tokenizer: Any) -> Callable[[Any], dict[str, float]] | None:
    """state -> what the tiny world's probes find in the model, or None where the configuration asks for none."""
    if config.data.probes is None:
        return None
    probes = make_probes(make_world(SEED), tokenizer, *make_questions(SEED))

    def probe(state: Any) -> dict[str, float]:
        params = combine(state.trainable, run.frozen, run.mask)
        lora = causal_lm.student(params, run.spec)
        return {name: float(found.value) for name, found in measure(run.model, params["base"], lora, probes).items()}

    return probe
