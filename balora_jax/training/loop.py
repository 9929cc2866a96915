"""The loop: batches in, updates, records, held-out evaluations and checkpoints out."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any, Protocol

import jax

from balora_jax.data import Batch
from balora_jax.training.best import Best
from balora_jax.training.checkpoints import Checkpoints
from balora_jax.training.interrupt import StopRequest
from balora_jax.training.memory import device_peak_bytes, host_bytes
from balora_jax.training.metrics import MetricsLog
from balora_jax.training.processes import Agreement
from balora_jax.training.profile import Profile
from balora_jax.training.records import HeldOutRecord, Record, StepRecord, check_finite
from balora_jax.training.state import TrainState
from balora_jax.training.times import Times


class Batches(Protocol):
    """An endless iterator whose position can be read and restored."""

    def __next__(self) -> Batch:
        """The next batch."""
        ...

    def get_state(self) -> dict[str, Any]:
        """The position, JSON-able."""
        ...


@dataclasses.dataclass
class Loop:
    """The moving parts of a run's training.

    Attributes:
      step: (state, batch) -> (state, metrics), compiled.
      batches: the batches that `step` takes.
      evaluate: state -> held-out measures by name; None when nothing is held out.
      best: judges them; it has seen the evaluations before a resumed run's start.
      checkpoints: where to save.
      log: where to record.
      show: called with every record, for the progress line.
      times: counts the time of each kind of work.
      profile: traces some of the updates.
      steps: updates in the run.
      save_every: updates between checkpoints.
      eval_every: updates between evaluations; 0 for none before the end.
    """

    step: Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]
    batches: Batches
    evaluate: Callable[[TrainState], dict[str, float]] | None
    best: Best
    checkpoints: Checkpoints
    log: MetricsLog
    show: Callable[[Record], None]
    times: Times
    profile: Profile
    steps: int
    save_every: int
    eval_every: int

    def run(self, state: TrainState, start: int, stop: StopRequest) -> tuple[TrainState, int]:
        """Train until the last step, until `best` has ended or until asked to stop.

        An update's numbers are read while the next update runs, so the device never waits for the
        host; they are read at once where something is written on their strength.

        Args:
          state: after `start` updates.
          start: updates done before.
          stop: asks to stop after the current update.

        Returns:
          (state, updates done).

        Raises:
          Diverged: a loss that is not finite; nothing is saved after it.
        """
        done = start
        asked = Agreement(stop.signal)
        stopped = stop.agree(asked.next())
        self._unread: tuple[int, dict[str, jax.Array]] | None = None
        self._clock = time.monotonic()
        while done < self.steps and not self.best.ended and not stopped:
            state, metrics = self._update(state, done + 1)
            done += 1
            self._record_step()
            self._unread = (done, metrics)

            score = None
            if self.evaluate is not None and (
                done == self.steps or self._due(done, self.eval_every)
            ):
                record = self._record_evaluation(done, state)
                # Only the best so far has a score: among equal scores the checkpoints would keep
                # the last.
                score = self.best.score(record) if self.best.update(record) else None
            if self._due(done, self.save_every) or score is not None:
                self._save(done, state, score)
            stopped = stop.agree(asked.next())
        if done > start:
            self._save(done, state, None)
        return state, done

    def _update(self, state: TrainState, number: int) -> tuple[TrainState, dict[str, jax.Array]]:
        """Begin an update; its numbers are there later."""
        with self.times.spent_on("data"):
            batch = next(self.batches)
        with self.times.spent_on("step"):
            self.profile.before(number, self._unread)
            state, metrics = self.step(state, batch)
            self.profile.after(number, metrics)
        return state, metrics

    def _due(self, done: int, every: int) -> bool:
        return every > 0 and done % every == 0

    def _record_step(self) -> None:
        """Read the numbers of the update before, if they have not been read yet."""
        if self._unread is None:
            return
        done, metrics = self._unread
        self._unread = None
        with self.times.spent_on("step"):
            metrics = jax.device_get(metrics)
        numbers = {name: float(value) for name, value in metrics.items()}
        now = time.monotonic()
        memory = {"memory_host": host_bytes(), "memory_device_peak": device_peak_bytes()}
        record = StepRecord.of_metrics(done, numbers, now - self._clock, memory)
        self._clock = now
        check_finite(record)
        self.log.write(record)
        self.show(record)

    def _record_evaluation(self, done: int, state: TrainState) -> HeldOutRecord:
        self._record_step()
        try:
            with self.times.spent_on("evaluation"):
                measures = self.evaluate(state)
        except Exception:
            # A task of evaluation.tasks may fail, and the updates so far must not be lost.
            self._save(done, state, None)
            raise
        record = HeldOutRecord.of_measures(done, measures)
        self.log.write(record)
        self.show(record)
        self._clock = time.monotonic()
        return record

    def _save(self, done: int, state: TrainState, score: float | None) -> None:
        self._record_step()
        with self.times.spent_on("save"):
            self.checkpoints.save(done, state, self.batches.get_state(), score)
