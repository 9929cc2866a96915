"""Operations a token, and their share of what devices can do."""

import types

import pytest

from balora_jax.training.chips import chip_of
from balora_jax.training.utilization import flops_per_token, utilization


@pytest.mark.parametrize(
    ("method", "teacher", "passes"),
    [("lora", False, 4), ("ba-lora", True, 6), ("ba-lora", False, 4), ("full", False, 6)],
)
def test_operations_of_a_token(method, teacher, passes):
    assert flops_per_token(7_000_000_000, method=method, teacher=teacher) == passes * 7e9


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("TPU v5 lite", 197e12),
        ("TPU v5", 459e12),
        ("TPU v6 lite", 918e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("cpu", None),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA H200 NVL", None),
        ("TPU v4 lite", None),
        ("NVIDIA GeForce RTX 4090", None),
    ],
)
def test_peaks(kind, peak):
    chip = chip_of(kind)
    assert (chip and chip.flops) == peak


def test_the_share_is_of_all_devices():
    devices = [types.SimpleNamespace(device_kind="TPU v4")] * 4
    assert utilization(550e12, devices) == 0.5
    assert utilization(550e12, [types.SimpleNamespace(device_kind="cpu")]) is None
