"""One program in the sandbox: its supervisor is started, awaited, and believed if it is whole."""

import contextlib
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
from typing import IO

from balora_jax.errors import reason_of
from balora_jax.evaluation.sandbox.outcomes import Limits, Outcome
from balora_jax.evaluation.sandbox.supervisor.folder import delete

# The package alone is found: neither jax nor another library is imported.
SUPERVISOR = """
import sys
sys.path.append(sys.argv[1])
from balora_jax.evaluation.sandbox.supervisor.supervision import main
main()
"""
PACKAGES = str(pathlib.Path(__file__).parents[3])
# The interpreter itself: programs do not see the packages of a virtual environment.
PYTHON = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
# Of the file system, programs in namespaces see these, where they exist, and read only.
VISIBLE = (
    "/usr",
    "/lib",
    "/lib64",
    "/nix/store",
    "/etc/ld.so.cache",
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
    sys.base_prefix,
    sys.base_exec_prefix,
    PYTHON,
)
# Seconds that a supervisor may need beyond its program, on a busy machine.
GRACE = 30


class Supervisors:
    """The supervisors that are running, so that all can be ended at once."""

    def __init__(self) -> None:
        """Begin with none."""
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._is_stopped = False

    def start(self, request: dict[str, object], source: IO[bytes]) -> subprocess.Popen[bytes]:
        """Start the supervisor of one program.

        Args:
          request: the program's limits, level and folder.
          source: the program's file, which becomes its standard input.

        Raises:
          OSError: no process could be started, or all have been stopped.
        """
        with self._lock:
            if self._is_stopped:
                raise OSError("the sandbox was stopped")
            child = subprocess.Popen(
                [PYTHON, "-I", "-S", "-B", "-c", SUPERVISOR, PACKAGES, json.dumps(request)],
                stdin=source,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={},
                start_new_session=True,
            )
            self._running.add(child)
        return child

    def end(self, child: subprocess.Popen[bytes]) -> None:
        """Forget a supervisor; one that still runs is asked to end, then killed."""
        with self._lock:
            self._running.discard(child)
        if child.poll() is None:
            child.terminate()
            try:
                child.communicate(timeout=GRACE)
            except subprocess.TimeoutExpired:
                child.kill()
                child.communicate()

    def stop(self) -> None:
        """End all supervisors, which kill their programs, and let no other start."""
        with self._lock:
            self._is_stopped = True
            for child in self._running:
                child.terminate()


def run_program(program: str, limits: Limits, level: str, supervisors: Supervisors) -> Outcome:
    """Run one program and return its outcome, whatever it does.

    Args:
      program: Python source.
      limits: its limits.
      level: the level of isolation.
      supervisors: where the running supervisors are kept.
    """
    try:
        with contextlib.ExitStack() as stack:
            source = stack.enter_context(tempfile.TemporaryFile())
            source.write(program.encode("utf-8", "surrogatepass"))
            source.seek(0)
            folder = tempfile.mkdtemp(prefix="balora-sandbox-")
            stack.callback(_delete_if_left, folder)
            request = {
                "parent": os.getpid(),
                "python": PYTHON,
                "visible": VISIBLE,
                "folder": folder,
                "level": level,
                "limits": dataclasses.asdict(limits),
            }
            child = supervisors.start(request, source)
            stack.callback(supervisors.end, child)
            output, errors = child.communicate(timeout=limits.seconds + GRACE)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Outcome("sandbox failed", reason_of(error))
    return _outcome(output, errors, child.returncode)


def _delete_if_left(folder: str) -> None:
    """Delete a folder whose supervisor was killed before it could."""
    if os.path.exists(folder):
        delete(folder)


def _outcome(output: bytes, errors: bytes, exit_code: int) -> Outcome:
    try:
        return Outcome(**json.loads(output))
    except (ValueError, TypeError):
        last = errors.decode(errors="replace").strip().split("\n")[-1]
        detail = f"its supervisor ended with exit code {exit_code}: {last}"
        return Outcome("sandbox failed", detail[:300])
