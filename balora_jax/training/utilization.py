"""Model FLOPs utilization: a run's floating-point operations beside the most of its devices."""

import jax

from balora_jax.training.chips import chip_of


def flops_per_token(parameters: int, *, method: str, teacher: bool) -> float:
    """Estimate the operations of an update for each token.

    A forward pass takes 2 P, and so does the gradient of the hidden states. The gradient of frozen
    weights is not computed, that of trained ones takes 2 P. The teacher is one more forward pass.
    Attention's scores and what remat computes again are not counted. Of a mixture of experts all
    experts count, as they are computed.

    Args:
      parameters: P, the numbers of the model.
      method: ba-lora, pissa, lora or full.
      teacher: True if a teacher runs.

    Returns:
      4 P for adapters, 6 P under method full, and 2 P more with a teacher.
    """
    passes = (6 if method == "full" else 4) + (2 if teacher else 0)
    return float(passes * parameters)


def utilization(flops_a_second: float, devices: list[jax.Device]) -> float | None:
    """Return the share of the devices' bfloat16 peak; None if their kind is not in the table.

    Args:
      flops_a_second: operations of the run a second.
      devices: of the run.
    """
    chip = chip_of(devices[0].device_kind)
    return None if chip is None else flops_a_second / (chip.flops * len(devices))
