"""The arrays that a loss reads, and the type of a loss function."""

from collections.abc import Callable
from typing import Any

import jax
from flax import struct, traverse_util

from balora_jax.data import Batch
from balora_jax.objective.plain import Parts

Tree = Any


class Params(struct.PyTreeNode):
    """The arrays that a model and its objective read.

    Attributes:
      adapters: {a, b} at each target, trained; {} under method full.
      base: the parameters of the model. They are frozen, except for the modules that are trained
        whole, such as the head of a classifier; under method full they are trained.
      head_factor: float32 [d, d] ([d + 1, d + 1] with a bias), R of the frozen head W = Q R, for
        the SVD term; None if it is not used.
      initial: the adapters of step 0, frozen; None if their product is zero, as in LoRA.
      pretrained: the modules of a language model's base that are trained whole, as they were
        before, frozen; None if there are none.
    """

    adapters: Tree
    base: Tree
    head_factor: jax.Array | None = None
    initial: Tree | None = None
    pretrained: Tree | None = None

    @property
    def teacher_base(self) -> Tree:
        """The base as it was before training, which the teacher reads."""
        if self.pretrained is None:
            return self.base
        flat = traverse_util.flatten_dict(self.base)
        before = traverse_util.flatten_dict(self.pretrained)
        return traverse_util.unflatten_dict(flat | before)


# (params, batch, random key or None, weights) -> (loss, parts).
LossFn = Callable[[Params, Batch, jax.Array | None, dict[str, jax.Array]], tuple[jax.Array, Parts]]
