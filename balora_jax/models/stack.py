"""Layers of one kind on top of each other: one traced, its parameters stacked on the leading axis."""

import jax
from flax import linen as nn

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
    if remat != "none":
        layer = nn.remat(layer, prevent_cse=False, policy=REMAT_POLICIES[remat])
    axes, keys = {"params": 0, "lora": 0}, {"params": True, "dropout": True}
    return nn.scan(layer, variable_axes=axes, split_rngs=keys, in_axes=in_axes, length=length)
