"""Equality of formulas by math-verify, within bounds of time and memory."""

import contextlib
import functools
import importlib.util
import json
import pathlib
import selectors
import subprocess
import sys

from balora_jax.errors import BadInput
from balora_jax.evaluation.tasks.latex import same_text, same_words

WORKER = pathlib.Path(__file__).with_name("equality_worker.py")
# Processor time for one pair.
CPU_SECONDS = 10
# Wall time for one pair, on the busiest machine.
MOST_SECONDS = 600.0
# A longer answer is no formula.
MOST_CHARACTERS = 1000


def are_equal(reference: str, answer: str) -> bool:
    r"""Return True if two answers are equal as texts, as words or as mathematics.

        "\frac{1}{2}", "0.5"  ->  True        "(1, 2)", "(2, 1)"  ->  False

    A pair whose comparison takes more than `CPU_SECONDS` or the worker's memory counts as
    different.

    Args:
      reference: the right answer, in LaTeX.
      answer: the model's.

    Raises:
      BadInput: math-verify is not installed.
    """
    worker = _worker()
    if same_text(reference, answer) or same_words(reference, answer):
        return True
    if len(answer) > MOST_CHARACTERS:
        return False
    return worker.ask(reference, answer)


def check_installed() -> None:
    """Check that math-verify is installed.

    Raises:
      BadInput: it is not.
    """
    if importlib.util.find_spec("math_verify") is None:
        raise BadInput(
            "comparing formulas needs math-verify, which is not installed; "
            'accepted: pip install "balora-jax[eval]"'
        )


@functools.cache
def _worker() -> "_Worker":
    check_installed()
    return _Worker()


class _Worker:
    """A process that compares pairs; one that does not answer in time is replaced."""

    def __init__(self) -> None:
        self._process: subprocess.Popen | None = None

    def ask(self, reference: str, answer: str) -> bool:
        """Return the process's answer for a pair; False without one."""
        if self._process is None:
            self._start()
        equal = self._exchange(reference, answer)
        if equal is None:
            self._stop()
        return bool(equal)

    def _start(self) -> None:
        # Without -P the worker's folder, whose modules have names of Python's own, would be read.
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        )
        if not self._exchange("1", "1"):
            self._stop()
            raise RuntimeError(f"{WORKER} does not find 1 equal to 1; math-verify may be damaged")

    def _exchange(self, reference: str, answer: str) -> bool | None:
        """Ask the process; None if it ends at its bounds, or does not answer in time."""
        self._process.stdin.write(json.dumps([reference, answer, CPU_SECONDS]) + "\n")
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.flush()
        line = self._process.stdout.readline() if self._is_ready() else ""
        return json.loads(line) if line else None

    def _is_ready(self) -> bool:
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            return bool(selector.select(MOST_SECONDS))

    def _stop(self) -> None:
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process = None
