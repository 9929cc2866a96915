"""What the benchmarks share: timing in turn, and where their numbers go."""

import json
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax

RESULTS = pathlib.Path(__file__).parent / "results"


def seconds_in_turn(calls: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Times each call, round by round, so that a machine's moods fall on all alike.

    A call is timed right after one like it, as a step of a run follows a step: what ran in between has the caches, and
    the system has taken back the memory that the call freed.
    """
    seconds = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            jax.block_until_ready(call())
            began = time.perf_counter()
            jax.block_until_ready(call())
            seconds[name].append(time.perf_counter() - began)
    return seconds


def write(name: str, result: dict[str, Any]) -> None:
    """Writes benchmarks/results/NAME.json, with the device that the numbers are of."""
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps({"device": jax.devices()[0].device_kind, **result}, indent=2)
    (RESULTS / f"{name}.json").write_text(text + "\n")
