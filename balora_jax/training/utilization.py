"""Model FLOPs utilization: a run's floating-point operations beside the most of its devices."""

import math
from typing import Any

import jax

from balora_jax.training.chips import chip_of


def flops_per_token(parameters: int, *, method: str, teacher: bool) -> float:
    """Estimate the operations of an update for each token.

    A forward pass takes 2 P, and so does the gradient of the hidden states. The gradient of frozen
    weights is not computed, that of trained ones takes 2 P. The teacher is one more forward pass.
    Attention's scores and what remat computes again are not counted. Of a mixture of experts all
    experts count, as they are computed.

    Args:
      parameters: P, from `multiplied_parameters`.
      method: ba-lora, pissa, lora or full.
      teacher: True if a teacher runs.

    Returns:
      4 P for adapters, 6 P under method full, and 2 P more with a teacher.
    """
    passes = (6 if method == "full" else 4) + (2 if teacher else 0)
    return float(passes * parameters)


def multiplied_parameters(model: Any, params: Any) -> int:
    """Count the numbers of a model that an update multiplies.

    Of an embedding rows are looked up; where it is the head too, it is multiplied there.

    Args:
      model: the Linen module.
      params: its parameters or their shapes.
    """
    is_head = getattr(model.config, "tied", False) and not hasattr(model, "labels")
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return sum(
        math.prod(leaf.shape)
        for path, leaf in leaves
        if is_head or jax.tree_util.keystr(path[-1:], simple=True) != "embedding"
    )


def utilization(flops_a_second: float, devices: list[jax.Device]) -> float | None:
    """Return the share of the devices' bfloat16 peak; None if their kind is not in the table.

    Args:
      flops_a_second: operations of the run a second.
      devices: of the run.
    """
    chip = chip_of(devices[0].device_kind)
    return None if chip is None else flops_a_second / (chip.flops * len(devices))
