"""The head of a classifier: which modules it is made of, and what they are called at Hugging Face."""

import jax
import jax.numpy as jnp
import numpy as np

from balora_jax.models.base import Classifier, Model
from balora_jax.models.hf.names import parts
from balora_jax.models.hf.registry import MODEL_TYPES


def head_modules(model: Classifier) -> tuple[tuple[str, ...], ...]:
    """The paths of the modules that make a classifier's head: those that stand between its features and its logits."""
    features = jnp.zeros((1, model.config.hidden_size))
    tree = jax.eval_shape(lambda: model.init(jax.random.key(0), features, method="classify"))[
        "params"
    ]
    return tuple((name,) for name in tree)


def head_tensors(model: Model, head: dict) -> dict[str, np.ndarray]:
    """Some modules' parameters, {module: ...}, under Hugging Face's names."""
    made = parts(MODEL_TYPES[model.config.model_type].names, head)
    return {part.name: part.make() for part in made}
