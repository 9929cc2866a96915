"""Repeated layers: traced once, with their parameters stacked on the leading axis."""

import dataclasses
from typing import Any

import jax
from flax import linen as nn

from balora_jax.models.layers.options import LayerOptions
from balora_jax.models.layers.recompute import PRODUCT

# Values of a layer that the backward pass may keep. "none" (no entry here) keeps all of them,
# "full" none, and "dots" the products with weights: attention scores are recomputed.
REMAT_POLICIES = {
    "dots": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
        jax.checkpoint_policies.save_only_these_names(PRODUCT),
    ),
    "full": jax.checkpoint_policies.nothing_saveable,
}


def stack(layer: type[nn.Module], length: int, remat: str, in_axes: tuple) -> type[nn.Module]:
    """Repeat a layer: layers(x, *inputs) -> (x, the layers' outputs stacked on axis 0).

    Args:
      layer: a module class whose call takes x and further inputs, and returns x and an output.
      length: number of layers.
      remat: recomputation in the backward pass: "none", "dots" or "full".
      in_axes: for each further input, 0 (each layer has its own slice) or nn.broadcast.

    Returns:
      The module class of the stack.
    """
    return _scanned(_rematerialized(layer, remat), length, in_axes)


def stack_beside_teacher(
    layer: type[nn.Module], length: int, remat: str, in_axes: tuple
) -> type[nn.Module]:
    """Repeat a layer for student and teacher: layers((student, teacher), *inputs) -> (pair, None).

    Both pass through a layer before the next one, so each layer's weights are fetched once. The
    teacher's adapters are in the collection `teacher`, and nothing of it is dropped.

    Args:
      layer: a module class with the attributes `config` and `options`; see `stack`.
      length: number of layers.
      remat: recomputation in the student's backward pass.
      in_axes: as for `stack`; the further inputs are shared by student and teacher.

    Returns:
      The module class of the stack.
    """

    class LayerPair(nn.Module):
        config: Any
        options: LayerOptions

        def setup(self) -> None:
            self.student_layer = _rematerialized(layer, remat)(self.config, self.options)
            nn.share_scope(self, self.student_layer)

        def __call__(self, hidden_states: tuple, *inputs):
            student, teacher = hidden_states
            student, _ = self.student_layer(student, *inputs)

            # No gradient reaches the teacher, so it needs no recomputation.
            without_dropout = dataclasses.replace(self.options, training=False)
            teacher_layer = layer(self.config, without_dropout, parent=None)
            teacher_variables = {
                "params": self.variables["params"],
                "lora": self.variables.get("teacher", {}),
            }
            teacher, _ = teacher_layer.apply(teacher_variables, teacher, *inputs)
            return (student, teacher), None

    return _scanned(LayerPair, length, in_axes)


def _rematerialized(layer: type[nn.Module], remat: str) -> type[nn.Module]:
    if remat == "none":
        return layer
    return nn.remat(layer, prevent_cse=False, policy=REMAT_POLICIES[remat])


def _scanned(layer: type[nn.Module], length: int, in_axes: tuple) -> type[nn.Module]:
    return nn.scan(
        layer,
        variable_axes={"params": 0, "lora": 0, "teacher": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=in_axes,
        length=length,
    )
