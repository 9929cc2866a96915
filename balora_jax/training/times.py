"""The time of a run, by what it went to."""

import contextlib
import time
from collections.abc import Iterator
from typing import Literal

Kind = Literal["compile", "data", "step", "evaluation", "save"]
KINDS: tuple[Kind, ...] = ("compile", "data", "step", "evaluation", "save")


class Times:
    """The seconds that a process has spent on each kind of work.

    Work within other work counts as its own kind alone, such as compiling that a step waits for.

    Attributes:
      seconds: of each kind.
    """

    def __init__(self) -> None:
        """Begin with none."""
        self.seconds: dict[Kind, float] = dict.fromkeys(KINDS, 0.0)
        self._doing: list[Kind] = []
        self._since = time.monotonic()

    @contextlib.contextmanager
    def spent_on(self, kind: Kind) -> Iterator[None]:
        """Count the time in this context.

        Args:
          kind: the work.
        """
        self._count()
        self._doing.append(kind)
        try:
            yield
        finally:
            self._count()
            self._doing.pop()

    def _count(self) -> None:
        """Count the time since the last change for the innermost work."""
        now = time.monotonic()
        if self._doing:
            self.seconds[self._doing[-1]] += now - self._since
        self._since = now
