"""Ctrl-C and SIGTERM as a request to stop after the current step."""

import signal
from types import FrameType


class StopRequest:
    """While entered, the first SIGINT or SIGTERM sets `given`; a second one acts as usual."""

    def __init__(self) -> None:
        self.given = False
        self._before: dict[int, signal.Handlers] = {}

    def __enter__(self) -> "StopRequest":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._take)
        return self

    def _take(self, number: int, frame: FrameType | None) -> None:
        self.given = True
        signal.signal(number, self._before[number])

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
