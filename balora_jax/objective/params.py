"""The arrays a loss reads, and what a loss is."""

from collections.abc import Callable
from typing import Any

import jax
from flax import struct

from balora_jax.data import Batch
from balora_jax.objective.plain import Parts

Tree = Any


class Params(struct.PyTreeNode):
    """Everything that a model and its objective compute from.

    Attributes:
      adapters: {a, b} at each target, trained; {} under method full.
      base: the model's own parameters, frozen but for a new head (or, under method full, trained).
      head_factor: [d, d], the frozen head as the SVD term sees it; None where it is not used.
      initial: the adapters of step 0, frozen; None where their product is zero, as in LoRA.
    """

    adapters: Tree
    base: Tree
    head_factor: jax.Array | None = None
    initial: Tree | None = None


# (params, batch, random key or None, weights) -> (loss, parts).
LossFn = Callable[[Params, Batch, jax.Array | None, dict[str, jax.Array]], tuple[jax.Array, Parts]]
