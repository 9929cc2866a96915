"""The memory of this process at one moment: on the host and on its devices."""

import os
import pathlib

import jax

# Linux's counts of this process's pages; the second is the resident set.
PAGES = pathlib.Path("/proc/self/statm")
PEAK = "peak_bytes_in_use"
LIMIT = "bytes_limit"
# The most bytes that a container's processes may use, or `max`.
CONTAINER = pathlib.Path("/sys/fs/cgroup/memory.max")


def host_bytes() -> int | None:
    """Return the resident set of this process in bytes; None on systems other than Linux."""
    try:
        resident = PAGES.read_text().split()[1]
    except OSError:
        return None
    return int(resident) * os.sysconf("SC_PAGE_SIZE")


def device_peak_bytes() -> int | None:
    """Return the most bytes that one of this host's devices has had in use in this process.

    None where jax does not report them, as on CPUs.
    """
    reported = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [int(stats[PEAK]) for stats in reported if PEAK in stats]
    return max(peaks, default=None)


def device_bytes(device: jax.Device) -> int | None:
    """Return the memory of one of this host's devices; None if it is not known.

    Devices of the kind cpu share that of the host.

    Args:
      device: the device.
    """
    stats = device.memory_stats() or {}
    if LIMIT in stats:
        return int(stats[LIMIT])
    host = _host_total_bytes() if device.platform == "cpu" else None
    return None if host is None else host // len(jax.local_devices())


def _host_total_bytes() -> int | None:
    """The memory that this host, or this container, has in all."""
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return None
    try:
        return min(total, int(CONTAINER.read_text()))
    except (OSError, ValueError):
        return total
