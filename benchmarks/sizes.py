"""The models that are measured, by name, and a training step of each from shapes alone.

Language models stream their objective; a classifier's step is given the teacher's word with the batch, as in training.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from transformers import BertConfig, GemmaConfig, LlamaConfig, MistralConfig, PretrainedConfig

from balora_jax import adapters, models
from balora_jax.adapters import AdapterSpec
from balora_jax.config import PAPER_TARGETS, OptimizerConfig, RegularizersConfig
from balora_jax.data import DTYPES, Batch
from balora_jax.models.hf.registry import CAUSAL_LM, CLASSIFICATION, MODEL_TYPES
from balora_jax.objective import causal_lm, classification, streamed
from balora_jax.objective.schedules import weights_at
from balora_jax.training.optimizer import learning_rate, make_optimizer
from balora_jax.training.sharding import batch_sharding, tree_shardings
from balora_jax.training.state import init_state, partition, trainable_mask
from balora_jax.training.step import Gradient, make_train_step, token_weighted, whole_batch

STEPS = 1000
# Of a classifier: those of MNLI.
CLASSES = 3
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
    "minilm": BertConfig(
        hidden_size=384, intermediate_size=1536, num_hidden_layers=6, num_attention_heads=12, num_labels=CLASSES,
    ),
}  # fmt: skip


class Step(NamedTuple):
    """An update and what it takes; shapes alone, or arrays once `materialize` has filled them in."""

    update: Any
    state: Any
    frozen: Any
    batch: Any


def writes(name: str) -> bool:
    """Whether the model named is a language model, and not a classifier."""
    return CAUSAL_LM in MODEL_TYPES[CONFIGS[name].model_type].tasks


def make_model(name: str, *, dtype: str, remat: str = "none") -> Any:
    """A model of a named size, stored and computing in `dtype`."""
    kind, task = (
        MODEL_TYPES[CONFIGS[name].model_type],
        CAUSAL_LM if writes(name) else CLASSIFICATION,
    )
    labels = {} if writes(name) else {"labels": CLASSES}
    numerics = {"dtype": jnp.dtype(dtype), "param_dtype": jnp.dtype(dtype), "remat": remat}
    return kind.tasks[task].module(kind.parse(CONFIGS[name]), **numerics, **labels)


def step_of_shapes(
    model: Any,
    terms: RegularizersConfig,
    *,
    rank: int,
    batch: int,
    length: int,
    mesh,
    head_frozen: bool = True,
) -> Step:
    """The BA-LoRA update of a language model on a mesh, with delta-form PiSSA adapters; nothing is allocated."""
    base = models.abstract_params(model)
    factor = {
        "head": jax.eval_shape(lambda tree: streamed.head_factor(models.head(model, tree)), base)
    }
    several = mesh if mesh.size > 1 else None
    loss = causal_lm.make_loss(
        model, AdapterSpec(rank), terms, mesh=several, head_frozen=head_frozen
    )
    dtypes = DTYPES._replace(token_type_ids=None, teacher=None)
    shapes = jax.tree.map(lambda dtype: jax.ShapeDtypeStruct((1, batch, length), dtype), dtypes)
    paths = adapters.match_targets(list(PAPER_TARGETS), base)
    return _update(token_weighted(loss), terms, base, factor, paths, (), rank, shapes, mesh)


def classifier_of_shapes(
    model: Any, terms: RegularizersConfig, *, rank: int, batch: int, length: int, mesh
) -> Step:
    """The same update of a classifier, adapters on every linear layer and its head trained whole."""
    base, head = models.abstract_params(model), models.head_modules(model)
    loss = classification.make_loss(model, AdapterSpec(rank), terms, scores=False)
    shapes = jax.tree.map(lambda dtype: jax.ShapeDtypeStruct((1, batch, length), dtype), DTYPES)
    shapes = shapes._replace(
        targets=jax.ShapeDtypeStruct((1, batch), DTYPES.targets),
        mask=jax.ShapeDtypeStruct((1, batch), DTYPES.mask),
        teacher=jax.ShapeDtypeStruct((1, batch, model.labels), DTYPES.teacher),
    )
    body = {name: part for name, part in base.items() if (name,) not in head}
    paths = adapters.match_targets("all-linear", body)
    return _update(whole_batch(loss), terms, base, {}, paths, head, rank, shapes, mesh)


def _update(
    gradient: Gradient,
    terms: RegularizersConfig,
    base: Any,
    factor: Any,
    paths,
    head,
    rank: int,
    shapes: Any,
    mesh,
) -> Step:
    start = jax.eval_shape(
        lambda key: adapters.init_lora(base, paths, rank, key), jax.random.key(0)
    )
    params = {"base": base, "adapters": start, "initial": start, "factor": factor}
    mask = trainable_mask(params, method="ba-lora", head=head)
    trainable, frozen = partition(params, mask)
    config = OptimizerConfig()
    optimizer = make_optimizer(config, STEPS, mask)
    state = jax.eval_shape(lambda tree: init_state(tree, optimizer, seed=0), trainable)
    update = make_train_step(
        gradient, optimizer, mask, weights_at(terms, STEPS), learning_rate(config, STEPS)
    )
    state, frozen = (_placed(tree, tree_shardings(mesh, tree)) for tree in (state, frozen))
    places = jax.tree.map(lambda _: batch_sharding(mesh), shapes)
    return Step(update, state, frozen, _placed(shapes, places))


def materialize(step: Step, model: Any) -> tuple[Any, Any, Any]:
    """(state, frozen, batch) of random weights, adapters near their start, and random tokens, all counted.

    Made by numpy: programs that make them would count in the process's memory.
    """
    rng = np.random.default_rng(0)

    def filled(path: tuple, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        if path[-1].key == "scale":
            return jnp.full(leaf.shape, 1 - getattr(model.config, "norm_offset", 0), leaf.dtype)
        return jnp.asarray(0.02 * rng.standard_normal(leaf.shape, np.float32), leaf.dtype)

    def drawn(name: str, shape: jax.ShapeDtypeStruct | None) -> jax.Array | None:
        highest = {"input_ids": model.config.vocab_size, "targets": CLASSES, "token_type_ids": 2}
        if shape is None:
            return None
        if shape.dtype == bool:
            return jnp.ones(shape.shape, bool)
        if name == "teacher":
            return jnp.asarray(rng.standard_normal(shape.shape, np.float32))
        return jnp.asarray(rng.integers(highest[name], size=shape.shape, dtype=np.int32))

    trainable, frozen = (
        jax.tree_util.tree_map_with_path(filled, tree)
        for tree in (step.state.trainable, step.frozen)
    )
    if frozen["factor"]:
        frozen["factor"] = {
            "head": jax.jit(streamed.head_factor)(models.head(model, frozen["base"]))
        }
    trainable["adapters"] = jax.tree.map(lambda leaf: leaf * 1.01, frozen["initial"])
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), step.state)
    batch = Batch(*map(drawn, Batch._fields, step.batch))
    if batch.targets.shape == batch.input_ids.shape:
        batch = batch._replace(targets=jnp.roll(batch.input_ids, -1, -1))
    return (
        zeros.replace(trainable=trainable, step=jnp.asarray(STEPS // 2, jnp.int32)),
        frozen,
        batch,
    )


def _placed(tree: Any, places: Any) -> Any:
    return jax.tree.map(lambda leaf, place: leaf.update(sharding=place), tree, places)
