"""Ctrl-C and SIGTERM as a request to stop after the current step."""

import signal
from types import FrameType


class StopRequest:
    """A context in which the first SIGINT or SIGTERM asks for a stop; a second one acts as usual.

    Attributes:
      given: True after the first signal.
    """

    def __init__(self) -> None:
        """Prepare; signals are handled from `__enter__` on."""
        self.given = False
        self._previous_handlers: dict[int, signal.Handlers] = {}

    def __enter__(self) -> "StopRequest":
        """Replace the handlers of both signals."""
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous_handlers[number] = signal.signal(number, self._handle)
        return self

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.given = True
        signal.signal(number, self._previous_handlers[number])

    def __exit__(self, *_: object) -> None:
        """Restore the handlers."""
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)
