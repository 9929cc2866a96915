"""Settings that all layers of a model share."""

from dataclasses import dataclass

import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import DTypeLike


@dataclass(frozen=True)
class LayerOptions:
    """Element types, dropout, initialization and attention of a model's layers.

    Attributes:
      dtype: element type of activations and matrix products.
      param_dtype: element type of fresh parameters.
      lora_dropout: probability of dropping an input of an adapter; applies in training only.
      training: True where dropout is active.
      init_std: standard deviation of fresh kernels and embeddings.
      attention: implementation of attention: "auto", "plain", "chunked", "cudnn" or "splash".
      mesh: the devices that activations are divided over; None for the default one.
    """

    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    lora_dropout: float = 0.0
    training: bool = False
    init_std: float = 0.02
    attention: str = "auto"
    mesh: Mesh | None = None
