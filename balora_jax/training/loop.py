"""The loop: batches in, updates, reports, held-out measures and checkpoints out."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any, Protocol

import jax

from balora_jax.data import Batch
from balora_jax.training.best import Best
from balora_jax.training.checkpoints import Checkpoints
from balora_jax.training.interrupt import StopRequest
from balora_jax.training.metrics import MetricsLog, check_finite
from balora_jax.training.state import TrainState


class Batches(Protocol):
    """An endless iterator that can tell and take its position."""

    def __next__(self) -> Batch: ...

    def get_state(self) -> dict[str, Any]: ...


@dataclasses.dataclass
class Loop:
    """One run's moving parts.

    Attributes:
      step: (state, batch) -> (state, metrics), compiled.
      batches: gives what `step` takes.
      evaluate: state -> held-out measures by name, or None when nothing is held out.
      best: judges them; what came before a resumed run's start is in it already.
      checkpoints, log: where to save and report.
      show: called with every record, for the progress line.
      steps, save_every, eval_every: in updates; eval_every 0 means never in between.
    """

    step: Callable[[TrainState, Any], tuple[TrainState, dict[str, jax.Array]]]
    batches: Batches
    evaluate: Callable[[TrainState], dict[str, float]] | None
    best: Best
    checkpoints: Checkpoints
    log: MetricsLog
    show: Callable[[dict[str, float]], None]
    steps: int
    save_every: int
    eval_every: int

    def run(self, state: TrainState, start: int, stop: StopRequest) -> tuple[TrainState, int]:
        """Trains from `start` to the last step, until `best` has ended or until asked to stop.

        Returns the state and the steps done.

        A step's numbers are read while the next step runs, so the device never waits for the host; they are
        read at once where something is written on their strength.

        Raises:
          Diverged: a loss that is not finite; nothing is saved after it.
        """
        done, self._waiting, self._clock = start, None, time.monotonic()
        while done < self.steps and not self.best.ended and not stop.given:
            state, metrics = self.step(state, next(self.batches))
            done += 1
            self._report()
            self._waiting = (done, metrics)
            score = None
            if self.evaluate is not None and (
                done == self.steps or self._due(done, self.eval_every)
            ):
                record = self._evaluate(done, state)
                # Only the best so far is given its score: among equals the checkpoints would keep the last.
                score = self.best.score(record) if self.best.take(record) else None
            if self._due(done, self.save_every) or score is not None:
                self._save(done, state, score)
        if done > start:
            self._save(done, state, None)
        return state, done

    def _due(self, done: int, every: int) -> bool:
        return every > 0 and done % every == 0

    def _report(self) -> None:
        if self._waiting is None:
            return
        (done, metrics), self._waiting = self._waiting, None
        record = {"step": done} | {
            name: float(value) for name, value in jax.device_get(metrics).items()
        }
        now = time.monotonic()
        record["tokens_per_second"] = record["tokens"] / (now - self._clock)
        self._clock = now
        check_finite(record)
        self.log.write(record)
        self.show(record)

    def _evaluate(self, done: int, state: TrainState) -> dict[str, float]:
        self._report()
        record = {"step": done} | self.evaluate(state)
        self.log.write(record)
        self.show(record)
        self._clock = time.monotonic()
        return record

    def _save(self, done: int, state: TrainState, score: float | None) -> None:
        self._report()
        self.checkpoints.save(done, state, self.batches.get_state(), score)
