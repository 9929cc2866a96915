"""The benchmarked models by name: their configurations, runs and random weights.

Language models stream their objective. The step of a classifier gets the teacher's logits with the
batch, as in training.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from transformers import BertConfig, GemmaConfig, LlamaConfig, MistralConfig, PretrainedConfig

from balora_jax import models
from balora_jax.config import (
    AdapterConfig,
    DataConfig,
    ModelConfig,
    OutputConfig,
    RegularizersConfig,
    RunConfig,
    TrainingConfig,
)
from balora_jax.data import Batch
from balora_jax.models.hf.registry import CAUSAL_LM, CLASSIFICATION, MODEL_TYPES
from balora_jax.objective.params import Params
from balora_jax.objective.spectrum import head_factor
from balora_jax.training.setup import TrainSetup
from balora_jax.training.state import TrainState

STEPS = 1000
# The classes of a classifier, as in MNLI.
CLASSES = 3
CONFIGS: dict[str, PretrainedConfig] = {
    "llama-2-7b": LlamaConfig(max_position_embeddings=4096, tie_word_embeddings=False),
    "mistral-7b": MistralConfig(),
    "gemma-7b": GemmaConfig(),
    "small": LlamaConfig(
        vocab_size=32000,
        hidden_size=512,
        intermediate_size=1376,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=8,
    ),
    "smollm2-135m": LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1e5},
    ),
    "minilm": BertConfig(
        hidden_size=384,
        intermediate_size=1536,
        num_hidden_layers=6,
        num_attention_heads=12,
        num_labels=CLASSES,
    ),
}


def is_language_model(name: str) -> bool:
    """Return True if a model is a language model, not a classifier.

    Args:
      name: one of CONFIGS.
    """
    return CAUSAL_LM in MODEL_TYPES[CONFIGS[name].model_type].tasks


def make_model(name: str, *, dtype: str) -> Any:
    """Make a model.

    Args:
      name: one of CONFIGS.
      dtype: the dtype of weights and products.
    """
    model_type = MODEL_TYPES[CONFIGS[name].model_type]
    task = model_type.tasks[CAUSAL_LM if is_language_model(name) else CLASSIFICATION]
    labels = {} if is_language_model(name) else {"labels": CLASSES}
    return task.module(
        model_type.parse(CONFIGS[name]),
        dtype=jnp.dtype(dtype),
        param_dtype=jnp.dtype(dtype),
        **labels,
    )


def make_config(
    name: str,
    *,
    rank: int,
    batch: int,
    dtype: str,
    remat: str = "none",
    regularized: bool = True,
) -> RunConfig:
    """Make the configuration of a BA-LoRA run with PiSSA adapters in the delta form.

    Args:
      name: one of CONFIGS.
      rank: the rank of the adapters.
      batch: examples of an update.
      dtype: the dtype of frozen weights and products.
      remat: training.remat.
      regularized: False to leave out the regularizers.
    """
    task = "causal-lm" if is_language_model(name) else "sequence-classification"
    regularizers = RegularizersConfig()
    if not regularized:
        off = {
            term: dataclasses.replace(section, weight=0.0)
            for term, section in regularizers.terms.items()
        }
        regularizers = RegularizersConfig(**off)
    targets = AdapterConfig().targets if is_language_model(name) else "all-linear"
    labels = None if is_language_model(name) else CLASSES
    return RunConfig(
        model=ModelConfig(source=name, task=task, dtype=dtype),
        adapter=AdapterConfig(rank=rank, targets=targets),
        regularizers=regularizers,
        data=DataConfig(train="random", labels=labels),
        training=TrainingConfig(steps=STEPS, batch_size=batch, precision=dtype, remat=remat),
        output=OutputConfig(dir="none"),
    )


def materialize(setup: TrainSetup, shapes: Batch) -> tuple[TrainState, Params, Batch]:
    """Make random weights, adapters near their start, and random tokens, all counted.

    They are made by numpy, because jax programs for them would add to the peak memory of the
    process.

    Args:
      setup: a setup on one device.
      shapes: the shapes of a batch, [examples, ...].

    Returns:
      The state, the frozen parameters, and the batch [1, examples, ...].
    """
    rng = np.random.default_rng(0)
    config = setup.model.config

    def random_leaf(path: tuple, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        if getattr(path[-1], "key", None) == "scale":
            return jnp.full(leaf.shape, 1 - getattr(config, "norm_offset", 0), leaf.dtype)
        return jnp.asarray(0.02 * rng.standard_normal(leaf.shape, np.float32), leaf.dtype)

    trainable = jax.tree_util.tree_map_with_path(random_leaf, setup.state.trainable)
    frozen = jax.tree_util.tree_map_with_path(random_leaf, setup.frozen)
    if frozen.head_factor is not None:
        factor = jax.jit(head_factor)(models.head(setup.model, frozen.base))
        frozen = frozen.replace(head_factor=factor)
    trainable = trainable.replace(adapters=jax.tree.map(lambda leaf: leaf * 1.01, frozen.initial))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), setup.state)
    state = zeros.replace(trainable=trainable, step=jnp.asarray(STEPS // 2, jnp.int32))
    batch = _random_batch(shapes, config.vocab_size, rng)
    return state, frozen, jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], batch)


def share(setup: TrainSetup, state: TrainState, frozen: Params) -> tuple[TrainState, Params]:
    """The same weights for another setup of the model, which may have no use for a head's factor.

    Args:
      setup: the other setup.
      state: of `materialize`.
      frozen: of `materialize`.

    Returns:
      (state, frozen) in the setup's structure.
    """
    if setup.frozen.head_factor is not None:
        return state, frozen
    trainable = state.trainable.replace(head_factor=None)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), setup.state)
    shared = zeros.replace(trainable=trainable, step=state.step)
    return shared, frozen.replace(head_factor=None)


def _random_batch(shapes: Batch, vocabulary: int, rng: np.random.Generator) -> Batch:
    tokens = rng.integers(vocabulary, size=shapes.input_ids.shape, dtype=np.int32)
    predicts_tokens = len(shapes.targets.shape) == 2
    targets = np.roll(tokens, -1, -1)
    if not predicts_tokens:
        targets = rng.integers(CLASSES, size=shapes.targets.shape, dtype=np.int32)
    token_type_ids = None
    if shapes.token_type_ids is not None:
        token_type_ids = rng.integers(2, size=tokens.shape, dtype=np.int32)
    teacher = None
    if shapes.teacher is not None:
        teacher = rng.standard_normal(shapes.teacher.shape, np.float32)
    return Batch(
        input_ids=tokens,
        attention_mask=np.ones(tokens.shape, bool),
        targets=targets,
        mask=np.ones(targets.shape, bool),
        token_type_ids=token_type_ids,
        teacher=teacher,
    )
