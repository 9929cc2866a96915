"""Ctrl-C, SIGTERM and SIGHUP: a stop after the current update, or an end with a message."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

# Windows has no SIGHUP.
HANGUP = (signal.SIGHUP,) if hasattr(signal, "SIGHUP") else ()
ENDING = (signal.SIGTERM, *HANGUP)
SHOW_CURSOR = b"\x1b[?25h"
# The signals that have asked for a stop in this process, in order; from then on only the main
# thread acts.
REQUESTED: list[int] = []
Handler = Callable[[int, FrameType | None], object]


class StopRequest:
    """A context in which a signal asks for a stop; the same signal again acts as usual.

    Ctrl-C is the signal SIGINT; the others are SIGTERM and SIGHUP, of which some systems send both.

    Attributes:
      given: True after a signal.
    """

    def __init__(self) -> None:
        """Prepare; signals are handled from `__enter__` on."""
        self.given = False
        self._replaced: dict[int, contextlib.ExitStack] = {}

    def __enter__(self) -> "StopRequest":
        """Replace the handlers of the signals."""
        for number in (signal.SIGINT, *ENDING):
            self._replaced[number] = contextlib.ExitStack()
            self._replaced[number].enter_context(_handled(number, self._handle))
        return self

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.given = True
        REQUESTED.append(number)
        self._replaced[number].close()

    def signal(self) -> int:
        """Return the number of the signal that asked for a stop, and 0 if nothing did.

        A stop that no signal asked for has that of SIGPIPE.
        """
        if not self.given:
            return 0
        return REQUESTED[0] if REQUESTED else signal.SIGPIPE

    def agree(self, number: int) -> bool:
        """Take the signal that asked any process of the run for a stop.

        Args:
          number: as `signal` returns it.

        Returns:
          True if the run is to stop.
        """
        if number:
            self.given = True
            if number != signal.SIGPIPE:
                # The exit code is that of the first one.
                REQUESTED.insert(0, number)
        return bool(number)

    def __exit__(self, *_: object) -> None:
        """Restore the handlers."""
        for replaced in self._replaced.values():
            replaced.close()


def stopped_code() -> int:
    """Return the exit code of a run that has saved and stopped as it was asked to.

    Returns:
      128 + the number of the signal that asked first: 130 for Ctrl-C, 143 for SIGTERM; that of
      SIGPIPE where nobody read the output.
    """
    return 128 + (REQUESTED[0] if REQUESTED else signal.SIGPIPE)


@contextlib.contextmanager
def ends_by_signal(meaning: str) -> Iterator[None]:
    """A context in which SIGTERM and SIGHUP end the process with a message, at once.

    An exception would not do: one that a handler raises within a callback of a library is lost.
    Nothing is cleaned up, as after kill -9, which every command outlives.

    Args:
      meaning: the end of the sentence `stopped by SIGTERM ...`: what the signal means for the
        command. An inner context's counts.
    """
    with contextlib.ExitStack() as replaced:
        replaced.enter_context(_watched())
        for number in ENDING:
            before = signal.getsignal(number)
            # A program that uses the package may handle the signal itself.
            if before is signal.SIG_DFL or isinstance(before, _Ending):
                replaced.enter_context(_handled(number, _Ending(meaning)))
        yield


class _Ending:
    """A handler that ends the process with a message and the exit code 128 + the signal."""

    _first = threading.Lock()

    def __init__(self, meaning: str) -> None:
        self._meaning = meaning

    def __call__(self, number: int, frame: FrameType | None) -> None:
        # The watching thread and the main one may both come here; only one speaks.
        if not self._first.acquire(blocking=False):
            return
        if os.isatty(1):
            os.write(1, SHOW_CURSOR + b"\n")
        name = signal.Signals(number).name
        os.write(2, f"balora: stopped by {name} {self._meaning}\n".encode())
        os._exit(128 + number)


@contextlib.contextmanager
def _watched() -> Iterator[None]:
    """Call an `_Ending` from a thread, while the main one is in a long compilation.

    Python calls handlers in the main thread, and not before it returns from compiled code.
    """
    if not _in_main_thread() or any(
        isinstance(signal.getsignal(number), _Ending) for number in ENDING
    ):
        yield
        return
    # Those of an earlier run in this process are over.
    REQUESTED.clear()
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    if before != -1:
        # An event loop watches already.
        signal.set_wakeup_fd(before)
    threading.Thread(target=_watch, args=(reading,), daemon=True).start()
    try:
        yield
    finally:
        if before == -1:
            signal.set_wakeup_fd(-1)
        # The end of the pipe ends the thread.
        os.close(writing)


def _watch(reading: int) -> None:
    with os.fdopen(reading, "rb", buffering=0) as numbers:
        while byte := numbers.read(1):
            handler = signal.getsignal(byte[0])
            if isinstance(handler, _Ending) and byte[0] not in REQUESTED:
                handler(byte[0], None)


@contextlib.contextmanager
def _handled(number: int, handler: Handler) -> Iterator[None]:
    """Replace the handler of a signal.

    None is replaced in a thread other than the main one, where Python cannot, and none of a SIGHUP
    that is ignored: nohup means that the run outlives its terminal.
    """
    before = signal.getsignal(number)
    if not _in_main_thread() or (number in HANGUP and before is signal.SIG_IGN):
        yield
        return
    signal.signal(number, handler)
    try:
        yield
    finally:
        # None is a handler that is not Python's, which Python cannot set again.
        signal.signal(number, before or signal.SIG_DFL)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
