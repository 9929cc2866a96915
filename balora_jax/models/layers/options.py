"""What all layers of a model share: how they compute, and what they make twice."""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

# For elementwise functions: the backward pass computes them again from their arguments, which costs less than keeping
# what they go through. The arguments of a scanned layer are kept by the scan, so there is nothing to guard from reuse.
recomputed = functools.partial(jax.checkpoint, prevent_cse=False)


@dataclass(frozen=True)
class Numerics:
    """What all layers of a model share: how they compute, store, drop out and start."""

    # What activations and matrix products are in.
    dtype: DTypeLike = jnp.float32
    # What fresh parameters are stored in.
    param_dtype: DTypeLike = jnp.float32
    # Probability of dropping an input of the adapter; acts in training only.
    lora_dropout: float = 0.0
    # Whether anything is dropped.
    training: bool = False
    # Standard deviation of fresh kernels and embeddings.
    init_std: float = 0.02
