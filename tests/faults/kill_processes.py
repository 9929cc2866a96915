"""Kill one process of a run on several hosts at random moments, and resume to the same end.

    python tests/faults/kill_processes.py --runs 20 [--processes 4] [--seed 0]

The processes are started together on this machine. One of them gets SIGKILL or SIGTERM, while they
start or after some updates; all must end within a minute, none with success. They are started again
with --output.resume until the run has its end, which must be, bit for bit, that of a run that was
never killed.
"""

import argparse
import collections
import os
import pathlib
import random
import shutil
import signal
import sys
import tempfile
import time

# Also makes the modules of tests/cases known.
from kill import Fault, Lost, World, outputs, require_same
from process_cases import Processes

# Seconds until all processes must have ended after a kill, and until a run is called stuck.
END = 60
LIMIT = 600
OPTIONS = ["--training.steps", "40", "--output.save_every", "1", "--training.eval_every", "7"]
# One that is killed before it has met the others is waited for.
OPTIONS += ["--mesh.wait", "40"]
SIGNALS = (signal.SIGKILL, signal.SIGTERM)


class Starter:
    """Starts the processes of one run, again and again."""

    def __init__(self, folder: pathlib.Path, processes: int) -> None:
        self._folder = folder
        self._processes = processes
        self._world = World(folder)
        self.starts = 0

    def start(self, output: pathlib.Path) -> Processes:
        """Start all processes of a run, which goes on where it was."""
        self.starts += 1
        sums = self._world.sums
        mesh = ["--mesh.data", "2", "--mesh.fsdp", str(self._processes // 2)]
        arguments = [*sums, *OPTIONS, *mesh, "--output.dir", str(output), "--output.resume"]
        compiled = ["--output.compilation_cache", str(self._folder / "compiled")]
        log = self._folder / f"log-{self.starts}"
        return Processes([*arguments, *compiled], log, count=self._processes, devices=1)


def kill_one(processes: Processes, output: pathlib.Path, draw: random.Random) -> str | None:
    """Wait for a random moment, and send one process a signal; all must end.

    Returns:
      What was done; None if the run ended before.

    Raises:
      Lost: a process does not end, or ends with success.
    """
    if draw.random() < 0.3:
        when = f"{_wait(processes, draw.uniform(0, 15)):.1f} s after the start"
    else:
        updates = draw.randint(1, 12)
        _wait_for_records(processes, output, updates)
        _wait(processes, draw.uniform(0, 0.5))
        when = f"{updates} records later"
    if _any_ended(processes):
        return None
    victim = draw.randrange(len(processes.running))
    sent = draw.choice(SIGNALS)
    processes.running[victim].send_signal(sent)
    start = time.monotonic()
    while not _all_ended(processes):
        if time.monotonic() - start > END:
            raise Lost(f"{_running(processes)} go on {END} s after {sent.name} to {victim}")
        time.sleep(0.05)
    seconds = time.monotonic() - start
    codes = [process.returncode for process in processes.running]
    if all(code == 0 for code in codes):
        # The signal came too late.
        return None
    if sent == signal.SIGTERM and 0 in codes:
        raise Lost(f"SIGTERM to {victim} ended the processes with {codes}")
    return f"{sent.name} to {victim} {when}: {codes} in {seconds:.1f} s"


def _records(output: pathlib.Path) -> int:
    path = output / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def _wait_for_records(processes: Processes, output: pathlib.Path, more: int) -> None:
    """Wait for so many records, or for the end."""
    start = time.monotonic()
    before = _records(output)
    while _records(output) < before + more and not _any_ended(processes):
        if time.monotonic() - start > LIMIT:
            raise Lost(f"no {more} records in {LIMIT} s")
        time.sleep(0.05)


def _wait(processes: Processes, seconds: float) -> float:
    """Wait, at most until an end."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and not _any_ended(processes):
        time.sleep(0.02)
    return seconds


def _any_ended(processes: Processes) -> bool:
    return any(process.poll() is not None for process in processes.running)


def _all_ended(processes: Processes) -> bool:
    return all(process.poll() is not None for process in processes.running)


def _running(processes: Processes) -> list[int]:
    return [n for n, process in enumerate(processes.running) if process.poll() is None]


def finish(processes: Processes) -> None:
    """Let the processes end.

    Raises:
      Lost: one fails.
    """
    codes, _ = processes.codes()
    if any(codes):
        raise Lost(f"the processes ended with {codes}: {processes.said()}")


def attempt(starter: Starter, output: pathlib.Path, most: int, draw: random.Random) -> int:
    """Kill a run up to so many times, and let it end.

    Returns:
      The number of kills.

    Raises:
      Lost: a process does not end, or the run does not.
    """
    kills = 0
    while kills < most:
        processes = starter.start(output)
        done = kill_one(processes, output, draw)
        if done is None:
            break
        kills += 1
        print(f"  {done}; {_records(output)} records", flush=True)
    else:
        processes = starter.start(output)
    finish(processes)
    return kills


def main() -> None:
    """Parse the options and kill; exit with code 1 after a fault."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--runs", type=int, required=True, help="the number of kills")
    parser.add_argument("--processes", type=int, default=4, help="of a run; an even number")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    options = parser.parse_args()
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
    folder = pathlib.Path(tempfile.mkdtemp(prefix="balora-kill-processes-"))
    starter = Starter(folder, options.processes)
    draw = random.Random(options.seed)
    whole = folder / "whole"
    finish(starter.start(whole))
    expected = outputs(whole)
    counts = collections.Counter()
    while counts["kills"] < options.runs:
        counts["attempts"] += 1
        trial = folder / str(counts["attempts"])
        try:
            most = options.runs - counts["kills"]
            counts["kills"] += attempt(starter, trial, most, draw)
            require_same(expected, outputs(trial))
        except Fault as fault:
            print(f"{trial}: {type(fault).__name__.lower()}: {fault}", flush=True)
            sys.exit(1)
        print(f"{trial.name}: the same in the end", flush=True)
    print(f"{counts['kills']} kills of {options.processes} processes: 0 lost, 0 different")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
