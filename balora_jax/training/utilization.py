"""Model FLOPs utilization: a run's floating-point operations beside the most of its devices."""

import jax

# Products of bfloat16 a second of one device, dense, by the start of jax's name for its kind, from
# the vendors' data sheets: https://cloud.google.com/tpu/docs/system-architecture-tpu-vm and
# https://www.nvidia.com/en-us/data-center/ (SXM).
PEAKS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5p": 459e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
}

# Forms of the same chips with other peaks.
OTHER_FORMS = ("PCIe", "NVL", "TPU v4 lite")


def peak_flops(device_kind: str) -> float | None:
    """Return the bfloat16 operations a second of a device; None if it is not in the table.

    Args:
      device_kind: as `jax.Device.device_kind`.
    """
    if any(name in device_kind for name in OTHER_FORMS):
        return None
    fitting = [kind for kind in PEAKS if device_kind.startswith(kind)]
    return PEAKS[max(fitting, key=len)] if fitting else None


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
    peak = peak_flops(devices[0].device_kind)
    return None if peak is None else flops_a_second / (peak * len(devices))
