"""A thread that sends a run's records to a service, so that its failures and delays stop no run."""

import collections
import functools
import itertools
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from balora_jax.errors import reason_of
from balora_jax.reporting.loggers.service import Entry, Service
from balora_jax.training.metrics import Outcome

# Records sent at once, and records that wait at most: further ones are in metrics.jsonl alone.
MOST_AT_ONCE = 50
MOST_WAITING = 100_000
# Seconds between attempts: the first, doubled each time, and the last.
FIRST_DELAY = 1.0
LONGEST_DELAY = 60.0
# Seconds that the end of a run waits for what has not been sent.
PATIENCE = 90.0


class Sending:
    """A logger that queues records for a service, and repeats what fails until it succeeds.

    The first failure in a row is said in one line, and so is the success after it. What has not
    been sent a while after the end of the run is counted in one line and given up.
    """

    def __init__(self, name: str, service: Service, metrics: str) -> None:
        """Start the thread.

        Args:
          name: the logger's name in output.loggers.
          service: the run at the service.
          metrics: the path of the file that has all records, for messages.
        """
        self._name = name
        self._service = service
        self._metrics = metrics
        self._waiting: collections.deque[Entry] = collections.deque()
        self._refused = 0
        self._failure: Exception | None = None
        self._end: tuple[Outcome, Mapping[str, Any] | None] | None = None
        self._deadline = float("inf")
        self._changed = threading.Condition()
        # A service that does not answer must not keep the process.
        self._thread = threading.Thread(target=self._work, name=f"sending to {name}", daemon=True)
        self._thread.start()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Queue a record."""
        with self._changed:
            if len(self._waiting) < MOST_WAITING:
                self._waiting.append((step, values))
            else:
                self._refused += 1
            self._changed.notify()

    def close(self, outcome: Outcome, summary: Mapping[str, Any] | None) -> None:
        """Wait a while until all is sent; say what is not."""
        with self._changed:
            self._end = (outcome, summary)
            self._deadline = time.monotonic() + PATIENCE
            self._changed.notify()
        self._thread.join(PATIENCE)
        unsent = len(self._waiting) + self._refused
        has_ended = not self._thread.is_alive() and self._failure is None
        if has_ended and not unsent:
            return
        if self._failure is not None:
            reason = reason_of(self._failure)
        elif has_ended:
            reason = f"more than {MOST_WAITING:,} waited at a time"
        else:
            reason = f"no answer in {PATIENCE:g} s"
        what = f"{unsent:,} records" if unsent else "the end of the run"
        say(
            f"{self._name} did not get {what} ({reason}); every record is in {self._metrics}, and "
            "the run itself is not affected"
        )

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._end)
                entries = list(itertools.islice(self._waiting, MOST_AT_ONCE))
            if not entries:
                self._repeat(functools.partial(self._service.finish, *self._end))
                return
            if not self._repeat(functools.partial(self._service.send, entries)):
                return
            with self._changed:
                for _ in entries:
                    self._waiting.popleft()

    def _repeat(self, attempt: Callable[[], None]) -> bool:
        """Call a function until it succeeds; return False where the time for it is over."""
        delay = FIRST_DELAY
        while True:
            try:
                attempt()
            except Exception as error:  # a service may raise anything, and none of it is the run's
                if self._failure is None:
                    say(
                        f"{self._name} takes no records ({reason_of(error)}); the run goes on, and "
                        "they are sent again until they arrive"
                    )
                self._failure = error
            else:
                if self._failure is not None:
                    say(f"{self._name} takes records again")
                self._failure = None
                return True
            self._pause(delay)
            if time.monotonic() >= self._deadline:
                return False
            delay = min(2 * delay, LONGEST_DELAY)

    def _pause(self, seconds: float) -> None:
        """Wait, but not beyond the deadline, which the end of the run sets."""
        until = time.monotonic() + seconds
        with self._changed:
            ended = self._end is not None
            while (left := min(until, self._deadline) - time.monotonic()) > 0:
                self._changed.wait(left)
                if self._end is not None and not ended:
                    # At the end of the run the next attempt need not wait.
                    return


def say(sentence: str) -> None:
    """Print a sentence on the error stream, where it spoils no output that a program reads."""
    print(f"note: {sentence}", file=sys.stderr, flush=True)
