"""The memory of the process: the resident set grows with what is held, devices say their peak."""

import jax
import numpy as np
import pytest

from balora_jax.training import memory


@pytest.mark.skipif(not memory.PAGES.exists(), reason="needs Linux's /proc")
def test_the_resident_set_grows_with_what_is_held():
    before = memory.host_bytes()
    held = np.ones(2**23)
    grown = memory.host_bytes() - before
    assert 0.9 * held.nbytes < grown < 2 * held.nbytes


def test_without_proc_the_resident_set_is_unknown(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "PAGES", tmp_path / "statm")
    assert memory.host_bytes() is None


class Device:
    def __init__(self, stats):
        self.memory_stats = lambda: stats


@pytest.mark.parametrize(
    "reported, peak",
    [
        ([None, None], None),
        ([{"bytes_in_use": 5}], None),
        ([{"peak_bytes_in_use": 5, "bytes_in_use": 1}, {"peak_bytes_in_use": 7}], 7),
    ],
)
def test_the_largest_peak_of_the_devices(monkeypatch, reported, peak):
    monkeypatch.setattr(jax, "local_devices", lambda: [Device(stats) for stats in reported])
    assert memory.device_peak_bytes() == peak
