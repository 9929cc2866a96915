"""The models that are measured, by name, and a training step of each from shapes alone."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from transformers import GemmaConfig, LlamaConfig, MistralConfig, PretrainedConfig

from balora_jax import adapters, models, streaming
from balora_jax.adapters import AdapterSpec
from balora_jax.config import PAPER_TARGETS, OptimizerConfig, RegularizersConfig
from balora_jax.models.decoder import Decoder
from balora_jax.models.decoder_config import decoder_config
from balora_jax.schedules import weights_at
from balora_jax.tasks import causal_lm
from balora_jax.training.optimizer import learning_rate, make_optimizer
from balora_jax.training.sharding import batch_sharding, tree_shardings
from balora_jax.training.state import init_state, partition, trainable_mask
from balora_jax.training.step import make_train_step, token_weighted

STEPS = 1000
CONFIGS: dict[str, PretrainedConfig] = {
    "llama-2-7b": LlamaConfig(max_position_embeddings=4096, tie_word_embeddings=False),
    "mistral-7b": MistralConfig(),
    "gemma-7b": GemmaConfig(),
    "small": LlamaConfig(
        vocab_size=32000, hidden_size=512, intermediate_size=1376, num_hidden_layers=8, num_attention_heads=8,
        num_key_value_heads=8,
    ),
    "smollm2-135m": LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, tie_word_embeddings=True, rope_parameters={"rope_type": "default", "rope_theta": 1e5},
    ),
}  # fmt: skip


class Step(NamedTuple):
    """An update and what it takes; shapes alone, or arrays once `materialize` has filled them in."""

    update: Any
    state: Any
    frozen: Any
    batch: Any


def make_model(name: str, *, dtype: str, remat: str = "none") -> Decoder:
    """A decoder of a named size, stored and computing in `dtype`."""
    return Decoder(decoder_config(CONFIGS[name]), dtype=jnp.dtype(dtype), param_dtype=jnp.dtype(dtype), remat=remat)


def step_of_shapes(
    model: Decoder, terms: RegularizersConfig, *, rank: int, batch: int, length: int, mesh, streamed: bool = True
) -> Step:
    """The BA-LoRA update of a model on a mesh, with delta-form PiSSA adapters; nothing is allocated."""
    base = models.abstract_params(model)
    paths = adapters.match_targets(list(PAPER_TARGETS), base)
    start = jax.eval_shape(lambda key: adapters.init_lora(base, paths, rank, key), jax.random.key(0))
    factor = {"head": jax.eval_shape(lambda tree: streaming.head_factor(models.head(model, tree)), base)}
    params = {"base": base, "adapters": start, "initial": start, "factor": factor}
    mask = trainable_mask(params, method="ba-lora")
    trainable, frozen = partition(params, mask)
    config = OptimizerConfig()
    optimizer = make_optimizer(config, STEPS, mask)
    state = jax.eval_shape(lambda tree: init_state(tree, optimizer, seed=0), trainable)
    loss = causal_lm.make_loss(
        model, AdapterSpec(rank), terms, mesh=mesh if mesh.size > 1 else None, head_frozen=streamed
    )
    update = make_train_step(
        token_weighted(loss), optimizer, mask, weights_at(terms, STEPS), learning_rate(config, STEPS)
    )
    state, frozen = (_placed(tree, tree_shardings(mesh, tree)) for tree in (state, frozen))
    kinds = {"input_ids": jnp.int32, "attention_mask": bool, "targets": jnp.int32, "mask": bool}
    shapes = {name: jax.ShapeDtypeStruct((1, batch, length), kind) for name, kind in kinds.items()}
    return Step(update, state, frozen, _placed(shapes, dict.fromkeys(shapes, batch_sharding(mesh))))


def materialize(step: Step, model: Decoder) -> tuple[Any, Any, Any]:
    """(state, frozen, batch) of random weights, adapters near their start, and random tokens, all counted."""
    keys = iter(jax.random.split(jax.random.key(0), 8))

    def filled(tree: Any, scale: float, key: jax.Array) -> Any:
        leaves, structure = jax.tree.flatten(tree)
        parts = zip(leaves, jax.random.split(key, len(leaves)), strict=True)
        return jax.tree.unflatten(structure, [scale * jax.random.normal(k, x.shape, x.dtype) for x, k in parts])

    base = models.init_params(model, next(keys))
    start = filled(step.frozen["initial"], 0.02, next(keys))
    factor = {"head": jax.jit(streaming.head_factor)(models.head(model, base))}
    frozen = step.frozen | {"base": base, "initial": start, "factor": factor}
    trainable = step.state.trainable | {"adapters": jax.tree.map(lambda leaf: leaf * 1.01, start)}
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), step.state)
    tokens = jax.random.randint(next(keys), step.batch["input_ids"].shape, 0, model.config.vocab_size)
    everything = jnp.ones(tokens.shape, bool)
    batch = {"input_ids": tokens, "attention_mask": everything, "targets": jnp.roll(tokens, -1, -1), "mask": everything}
    return zeros.replace(trainable=trainable, step=jnp.asarray(STEPS // 2, jnp.int32)), frozen, batch


def _placed(tree: Any, places: Any) -> Any:
    return jax.tree.map(lambda leaf, place: leaf.update(sharding=place), tree, places)
