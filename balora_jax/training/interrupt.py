"""Ctrl-C, SIGTERM and SIGHUP: a stop after the current step, or at once with a message."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

# Windows has no SIGHUP.
HANGUP = [signal.SIGHUP] if hasattr(signal, "SIGHUP") else []


class StopRequest:
    """A context in which the first signal asks for a stop; a second one acts as usual.

    Ctrl-C is the signal SIGINT; the others are SIGTERM and SIGHUP.

    Attributes:
      given: True after the first signal.
    """

    def __init__(self) -> None:
        """Prepare; signals are handled from `__enter__` on."""
        self.given = False
        self._closing = contextlib.ExitStack()

    def __enter__(self) -> "StopRequest":
        """Replace the handlers of the signals."""
        numbers = [signal.SIGINT, signal.SIGTERM, *HANGUP]
        self._closing.enter_context(_handled(numbers, self._ask))
        return self

    def _ask(self, number: int) -> None:
        self.given = True

    def __exit__(self, *_: object) -> None:
        """Restore the handlers."""
        self._closing.close()


class Stopped(BaseException):
    """SIGTERM or SIGHUP outside the updates; no Exception, as KeyboardInterrupt is none.

    Attributes:
      number: the signal's.
      meaning: what has been lost, if anything, and how to go on; empty if nothing explains it.
    """

    def __init__(self, number: int) -> None:
        """Keep the signal's number."""
        super().__init__(number)
        self.number = number
        self.meaning = ""

    def __str__(self) -> str:
        return f"stopped by {signal.Signals(self.number).name} {self.meaning}".rstrip()


def raise_stopped() -> contextlib.AbstractContextManager[None]:
    """Return a context in which SIGTERM and SIGHUP raise `Stopped` and do not end the process.

    A second signal ends it.
    """

    def stop(number: int) -> None:
        raise Stopped(number)

    return _handled([signal.SIGTERM, *HANGUP], stop)


@contextlib.contextmanager
def stop_means(meaning: str) -> Iterator[None]:
    """Add to a `Stopped` what it means for the run.

    Args:
      meaning: the end of the sentence `stopped by SIGTERM ...`.
    """
    try:
        yield
    except Stopped as stopped:
        stopped.meaning = stopped.meaning or meaning
        raise


@contextlib.contextmanager
def _handled(numbers: Sequence[int], handle: Callable[[int], None]) -> Iterator[None]:
    """Handle the first signal of each number; later ones have the handlers of before.

    In a thread other than the main one Python can replace no handler, and none is replaced.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in numbers}
    for number in HANGUP:
        # As nohup leaves it: the run outlives its terminal.
        if before.get(number) is signal.SIG_IGN:
            del before[number]

    def handle_once(number: int, frame: FrameType | None) -> None:
        restore(number)
        handle(number)

    def restore(number: int) -> None:
        # None is a handler that is not Python's, which Python cannot set again.
        signal.signal(number, before[number] or signal.SIG_DFL)

    try:
        for number in before:
            signal.signal(number, handle_once)
        yield
    finally:
        for number in before:
            restore(number)
