"""Accelerators: what one device computes, holds and exchanges, from the vendors' data sheets."""

from typing import NamedTuple

GIB = 2**30


class Chip(NamedTuple):
    """One accelerator.

    Attributes:
      kinds: beginnings of jax's name for the device, `jax.Device.device_kind`.
      flops: products of bfloat16 a second, dense.
      bytes: memory.
      bytes_a_second: between the chip and its memory.
      link_bytes_a_second: between the chip and its neighbors, in one direction.
      source: the data sheet.
    """

    kinds: tuple[str, ...]
    flops: float
    bytes: int
    bytes_a_second: float
    link_bytes_a_second: float
    source: str


GOOGLE = "https://cloud.google.com/tpu/docs/"
NVIDIA = "https://www.nvidia.com/en-us/data-center/"
CHIPS = {
    "v4": Chip(("TPU v4",), 275e12, 32 * GIB, 1.2e12, 300e9, f"{GOOGLE}v4"),
    "v5e": Chip(("TPU v5 lite", "TPU v5e"), 197e12, 16 * GIB, 0.82e12, 200e9, f"{GOOGLE}v5e"),
    "v5p": Chip(("TPU v5p", "TPU v5"), 459e12, 95 * GIB, 2.77e12, 600e9, f"{GOOGLE}v5p"),
    "v6e": Chip(("TPU v6 lite", "TPU v6e"), 918e12, 32 * GIB, 1.6e12, 400e9, f"{GOOGLE}v6e"),
    "a100": Chip(("NVIDIA A100",), 312e12, 80 * GIB, 2.0e12, 300e9, f"{NVIDIA}a100"),
    "h100": Chip(("NVIDIA H100",), 989e12, 80 * GIB, 3.35e12, 450e9, f"{NVIDIA}h100"),
    "h200": Chip(("NVIDIA H200",), 989e12, 141 * GIB, 4.8e12, 450e9, f"{NVIDIA}h200"),
}
# Forms of the same chips with other numbers.
OTHER_FORMS = ("PCIe", "NVL", "TPU v4 lite")


def chip_of(device_kind: str) -> Chip | None:
    """Return the chip of a device; None if it is not in the table.

    Args:
      device_kind: as `jax.Device.device_kind`.
    """
    if any(name in device_kind for name in OTHER_FORMS):
        return None
    fitting = [
        (len(kind), chip)
        for chip in CHIPS.values()
        for kind in chip.kinds
        if device_kind.startswith(kind)
    ]
    # "TPU v5" is also the beginning of another kind's name.
    return max(fitting, key=lambda pair: pair[0])[1] if fitting else None
