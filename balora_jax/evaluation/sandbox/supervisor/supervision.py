"""Runs one untrusted program, watches its limits, kills all that is left, prints its outcome."""

import json
import os
import resource
import signal
import sys
import time
from types import FrameType
from typing import Any

from balora_jax.evaluation.sandbox.supervisor import folder, kernel, launch, namespaces, processes
from balora_jax.evaluation.sandbox.supervisor.watched import Watched

# Seconds between two looks at a program's processes and files.
PAUSE = 0.01


def main() -> None:
    """Supervise the program that the command line describes; print status and detail as JSON."""
    request = json.loads(sys.argv[-1])
    try:
        signal.signal(signal.SIGTERM, _stop)
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGTERM)
        # Set too late if the parent has ended since.
        if os.getppid() != request["parent"]:
            return
        # Nothing of this process in /proc is open to programs of the same user.
        kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
        kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER)
        status, detail = supervise(request)
    finally:
        # From here on nothing is left half done.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        processes.kill_all()
        folder.delete(request["folder"])
    print(json.dumps({"status": status, "detail": detail}))


def _stop(number: int, _: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(128 + number)


def supervise(request: dict[str, Any]) -> tuple[str, str]:
    """Run a program to its end or its limits.

    Args:
      request: as the command line describes it.

    Returns:
      The status and a line of details.
    """
    watched = Watched(request)
    end = time.monotonic() + request["limits"]["seconds"]
    look = 0.0
    code = watched.exit_code()
    while code is None:
        watched.listen(PAUSE)
        code = watched.exit_code()
        now = time.monotonic()
        if watched.written > request["limits"]["output_bytes"]:
            return "too much output", f"more than {request['limits']['output_bytes']:,} bytes"
        if now > end:
            return "timed out", f"after {request['limits']['seconds']:g} seconds"
        if now > look and code is None:
            look = now + PAUSE
            excess = _excess(request)
            if excess is not None:
                return excess
    processes.kill_all()
    while watched.is_open:
        watched.listen(PAUSE)
    return _judge(watched, code, request["limits"])


def _excess(request: dict[str, Any]) -> tuple[str, str] | None:
    """Compare the resources that a program uses now with its limits."""
    limits = request["limits"]
    threads, resident = processes.usage()
    most = limits["processes"]
    if request["level"] == "namespaces":
        most += namespaces.WAITING
    if threads > most:
        return "too many processes", f"more than {limits['processes']:,}"
    if resident > limits["memory_bytes"]:
        return "out of memory", f"more than {limits['memory_bytes']:,} bytes"
    if request["level"] == "namespaces":
        # The kernel limits the folder.
        return None
    size, files = folder.usage(f"{request['folder']}/work", limits["files"] + 1)
    if files > limits["files"]:
        return "too much output", f"more than {limits['files']:,} files"
    if size > limits["folder_bytes"]:
        return "too much output", f"more than {limits['folder_bytes']:,} bytes in files"
    return None


def _judge(watched: Watched, code: int, limits: dict[str, Any]) -> tuple[str, str]:
    """Return status and detail of a program that has ended."""
    if code == 0 and watched.verdict == watched.word:
        return "passed", ""
    words = watched.verdict.decode(errors="replace")
    line = "".join(character if character.isprintable() else " " for character in words)
    if code == launch.NOT_LAUNCHED:
        return "sandbox failed", line[:300]
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    used_up = used.ru_utime + used.ru_stime >= limits["cpu_seconds"]
    # The kernel sends the first signal, and the second one to programs that ignore it.
    if code == 128 + signal.SIGXCPU or (code == 128 + signal.SIGKILL and used_up):
        return "timed out", f"after {limits['cpu_seconds']:g} seconds of processor time"
    status = words.partition("\n")[0]
    if status in launch.REPORTED:
        return status, line[len(status) + 1 :][:300]
    if code > 128 and code - 128 in set(signal.Signals):
        return "failed", f"ended by {signal.Signals(code - 128).name}"
    return "failed", f"ended with exit code {code} before its last line"
