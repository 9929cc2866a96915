"""Layers of one kind on top of each other: one traced, its parameters stacked on the leading axis."""

import dataclasses
from typing import Any

import jax
from flax import linen as nn

from balora_jax.models.layers.options import Numerics

# What the backward pass keeps of a layer: "none" recomputes nothing, "full" everything, and "dots" everything but
# the products with weights (attention scores, quadratic in length, are recomputed).
REMAT_POLICIES = {
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


def stack(layer: type[nn.Module], length: int, remat: str, in_axes: tuple) -> type[nn.Module]:
    """A layer repeated: layers(x, *inputs) -> (x, outputs stacked on axis 0).

    Args:
        layer: a module whose call takes x and `in_axes` more, and returns x and its output.
        length: how many.
        remat: "none", "dots" or "full".
        in_axes: for each further input 0 (each layer has its own slice) or nn.broadcast.

    Returns:
        The module class of the stack.
    """
    return _scanned(_rematted(layer, remat), length, in_axes)


def stack_beside_teacher(
    layer: type[nn.Module], length: int, remat: str, in_axes: tuple
) -> type[nn.Module]:
    """`stack` for two at once: layers((student, teacher), *inputs) -> ((student, teacher), None).

    Both go through a layer before the next one's weights are fetched, so these are fetched once. The teacher takes its
    adapters from the collection `teacher` and drops nothing.
    """

    class Pair(nn.Module):
        config: Any
        numerics: Numerics

        def setup(self) -> None:
            self.own = _rematted(layer, remat)(self.config, self.numerics)
            nn.share_scope(self, self.own)

        def __call__(self, states: tuple, *inputs):
            student, teacher = states
            student, _ = self.own(student, *inputs)
            still = layer(
                self.config, dataclasses.replace(self.numerics, training=False), parent=None
            )
            # No gradient reaches the teacher, so there is nothing to keep of it or to compute again.
            weights = {
                "params": self.variables["params"],
                "lora": self.variables.get("teacher", {}),
            }
            return (student, still.apply(weights, teacher, *inputs)[0]), None

    return _scanned(Pair, length, in_axes)


def _rematted(layer: type[nn.Module], remat: str) -> type[nn.Module]:
    return (
        layer
        if remat == "none"
        else nn.remat(layer, prevent_cse=False, policy=REMAT_POLICIES[remat])
    )


def _scanned(layer: type[nn.Module], length: int, in_axes: tuple) -> type[nn.Module]:
    axes, keys = {"params": 0, "lora": 0, "teacher": 0}, {"params": True, "dropout": True}
    return nn.scan(layer, variable_axes=axes, split_rngs=keys, in_axes=in_axes, length=length)
