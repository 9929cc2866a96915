"""A trace of some of a run's updates, for TensorBoard's profiler and Perfetto."""

import pathlib
from types import TracebackType
from typing import Any, Self

import jax


class Profile:
    """Traces updates FIRST to LAST of a run; a context that ends a trace which is under way.

    Attributes:
      has_traced: True if a trace was begun.
    """

    def __init__(self, updates: tuple[int, int] | None, folder: pathlib.Path) -> None:
        """Name the updates.

        Args:
          updates: the first and the last; None for no trace.
          folder: gets plugins/profile/, where TensorBoard looks.
        """
        self._updates = updates
        self._folder = folder
        self._is_tracing = False
        self.has_traced = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop()

    def before(self, update: int, results: Any = None) -> None:
        """Begin the trace if this update is the first of it, or the first of a run that goes on.

        Args:
          update: its number, from 1.
          results: of the update before, which are awaited before a trace begins.
        """
        if self._updates is None or self._is_tracing:
            return
        first, last = self._updates
        if first <= update <= last:
            jax.block_until_ready(results)
            jax.profiler.start_trace(self._folder)
            self._is_tracing = True
            self.has_traced = True

    def after(self, update: int, results: Any) -> None:
        """End the trace if this update is the last of it.

        Args:
          update: its number.
          results: of the update, which are awaited.
        """
        if self._is_tracing and update == self._updates[1]:
            jax.block_until_ready(results)
            self._stop()

    def _stop(self) -> None:
        if self._is_tracing:
            self._is_tracing = False
            jax.profiler.stop_trace()
