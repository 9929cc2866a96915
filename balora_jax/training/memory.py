"""The memory of this process at one moment: on the host and on its devices."""

import os
import pathlib

import jax

# Linux's counts of this process's pages; the second is the resident set.
PAGES = pathlib.Path("/proc/self/statm")
PEAK = "peak_bytes_in_use"


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
