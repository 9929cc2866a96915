"""Modules that are trained whole, such as a classifier's head, as Hugging Face's tensors."""

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from balora_jax.models.base import Classifier, Model
from balora_jax.models.hf.names import name_table, tensors_of
from balora_jax.models.hf.registry import MODEL_TYPES


def head_modules(model: Classifier) -> tuple[tuple[str, ...], ...]:
    """List the modules between a classifier's features and its logits.

    Args:
      model: a classifier.

    Returns:
      The modules' paths.
    """

    def init_head() -> dict:
        features = jnp.zeros((1, model.config.hidden_size))
        return model.init(jax.random.key(0), features, method="classify")

    shapes = jax.eval_shape(init_head)
    return tuple((name,) for name in shapes["params"])


def head_tensors(model: Model, head: dict) -> dict[str, np.ndarray]:
    """Convert some modules' parameters to Hugging Face's tensors.

    Args:
      model: their model.
      head: {module: parameters}, nested.

    Returns:
      {Hugging Face's name: tensor}.
    """
    naming = MODEL_TYPES[model.config.model_type].naming
    return {tensor.name: tensor.make() for tensor in tensors_of(naming, head)}


def head_shapes(model: Model, head: dict) -> dict[str, tuple[int, ...]]:
    """List the shapes of the tensors that `head_tensors` returns.

    Args:
      model: the modules' model.
      head: {module: parameters or their shapes}, nested.

    Returns:
      {Hugging Face's name: shape}.
    """
    naming = MODEL_TYPES[model.config.model_type].naming
    table = name_table(naming, head)
    return {name: entry.stored_shape for entry in table for name in entry.names}


def head_params(model: Model, head: dict, tensors: dict[str, np.ndarray]) -> dict:
    """Convert Hugging Face's tensors to some modules' parameters; the inverse of `head_tensors`.

    Args:
      model: their model.
      head: {module: parameters or their shapes}, nested; no module of stacked layers.
      tensors: {Hugging Face's name: tensor}, at least those of the modules.

    Returns:
      {module: parameters}, nested.
    """
    naming = MODEL_TYPES[model.config.model_type].naming
    params = {}
    for entry in name_table(naming, head):
        tensor = tensors[entry.names[0]]
        params[entry.path] = tensor.T if entry.transposed else tensor
    return unflatten_dict(params)
