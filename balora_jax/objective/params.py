"""The arrays that a loss reads, and the type of a loss function."""

from collections.abc import Callable
from typing import Any

import jax
from flax import struct

from balora_jax.data import Batch
from balora_jax.objective.plain import Parts

Tree = Any


class Params(struct.PyTreeNode):
    """The arrays that a model and its objective read.

    Attributes:
      adapters: {a, b} at each target, trained; {} under method full.
      base: the parameters of the model. They are frozen, except for the head of a classifier; under
        method full they are trained.
      head_factor: float32 [d, d] ([d + 1, d + 1] with a bias), R of the frozen head W = Q R, for
        the SVD term; None if it is not used.
      initial: the adapters of step 0, frozen; None if their product is zero, as in LoRA.
    """

    adapters: Tree
    base: Tree
    head_factor: jax.Array | None = None
    initial: Tree | None = None


# (params, batch, random key or None, weights) -> (loss, parts).
LossFn = Callable[[Params, Batch, jax.Array | None, dict[str, jax.Array]], tuple[jax.Array, Parts]]
