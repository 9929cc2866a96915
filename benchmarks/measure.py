"""Timing and result files of the benchmarks."""

import json
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax

RESULTS = pathlib.Path(__file__).parent / "results"


def seconds_in_turn(calls: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Time several calls, round by round, so that changes of the machine's speed affect all alike.

    Every timed call follows an untimed one of its kind, as a step of a run follows a step.
    Otherwise the calls in between would have filled the caches, and the operating system would have
    taken back the memory that the call freed.

    Args:
      calls: the functions to time, by name.
      repeats: the number of rounds.

    Returns:
      The seconds of each timed call, by name.
    """
    times = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            jax.block_until_ready(call())
            times[name].append(seconds(call))
    return times


def seconds(call: Callable[[], Any]) -> float:
    """Time a call.

    Args:
      call: returns arrays, which are awaited.
    """
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def write(name: str, result: dict[str, Any]) -> None:
    """Write benchmarks/results/NAME.json.

    Args:
      name: NAME.
      result: the numbers; the device is added.
    """
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps({"device": jax.devices()[0].device_kind, **result}, indent=2)
    (RESULTS / f"{name}.json").write_text(text + "\n")
