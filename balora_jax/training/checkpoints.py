"""Checkpoints: trainable weights, optimizer, random key and data position, nothing frozen."""

import concurrent.futures
import contextlib
import logging
import pathlib
import threading
from collections.abc import Iterator
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers as managers

from balora_jax.errors import BadInput, OutputError, system_reason
from balora_jax.training.bucket import Bucket
from balora_jax.training.checksums import hash_arrays, write_checksums
from balora_jax.training.processes import on_first_host, wait_for_all
from balora_jax.training.saved_checkpoints import (
    INITIAL,
    DamagedCheckpoint,
    Position,
    SavedCheckpoints,
    named_arrays,
)
from balora_jax.training.state import TrainState

# Beside the folder of checkpoints: where damaged ones go.
DAMAGED = "damaged"
# Seconds between looks at a checkpoint that is being written.
PATIENCE = 0.02


class Checkpoints(SavedCheckpoints):
    """The checkpoints of the run that writes them, in the background.

    A checkpoint gets its final name only when it is complete, so that a killed run can always
    resume from its last one. Checksums of its files are added right after that.
    """

    def __init__(self, folder: pathlib.Path, keep: int, bucket: Bucket | None = None) -> None:
        """Open a folder of checkpoints; damaged ones are set aside.

        Args:
          folder: the folder; created if it does not exist. This process must hold the run's lock.
          keep: how many of the latest checkpoints are kept, besides the one with the best score.
          bucket: where complete checkpoints are sent, of a run folder that is a copy. Of several
            processes, each of which has a copy, process 0 then gathers the state and writes alone.

        Raises:
          BadInput: there are checkpoints, and all are damaged.
        """
        super().__init__(folder)
        self._bucket = bucket
        self._gathers = bucket is not None and jax.process_count() > 1
        self._writes = not self._gathers or jax.process_index() == 0
        self._manager: ocp.CheckpointManager | None = None
        # The steps that need not be saved again.
        self._saved = set(self.steps())
        self._set_aside_damaged()

        logging.getLogger("absl").addFilter(_is_news)

        def score(metrics: dict[str, float]) -> float:
            return metrics["score"]

        best = managers.BestN(get_metric_fn=score, n=1, keep_checkpoints_without_metrics=False)
        options = ocp.CheckpointManagerOptions(
            # The manager stores metrics only if it has a best_fn. The preservation policy decides
            # which checkpoints are kept.
            best_fn=score,
            best_mode="max",
            preservation_policy=managers.AnyPreservationPolicy([managers.LatestN(keep), best]),
            save_decision_policy=managers.FixedIntervalPolicy(1),
            cleanup_tmp_directories=True,
            multiprocessing_options=self._processes(),
            # Or it waits for the others.
            create=not self._gathers,
        )
        if self._writes:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._manager = ocp.CheckpointManager(self._folder, options=options)
        # Set while no checkpoint is on its way: one that is not there now will never be.
        self._settled = threading.Event()
        self._sealer = concurrent.futures.ThreadPoolExecutor(max_workers=1)
        self._seals: list[concurrent.futures.Future] = []

    def _processes(self) -> ocp.options.MultiprocessingOptions:
        """The processes that write a checkpoint: all of the run, or this one alone."""
        if self._gathers:
            return ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0})
        return ocp.options.MultiprocessingOptions()

    def _set_aside_damaged(self) -> None:
        """Move the checkpoints that fail their checks away, unless none would be left."""
        checks = {step: self.check(step) for step in self.steps()}
        faults = {step: check.fault for step, check in checks.items() if check.fault is not None}
        if jax.process_count() > 1:
            # All have looked before process 0 moves something away.
            multihost_utils.sync_global_devices("the checkpoints are checked")
        if faults and len(faults) == len(checks):
            listed = "; ".join(f"{step}: {fault}" for step, fault in faults.items())
            raise BadInput(
                f"{self._folder} has no whole checkpoint ({listed}); accepted: a whole copy of "
                "one of them in its place, or another output.dir"
            )
        # Checkpoints of version 0.1 have no checksums, and deserve no notice.
        any_checked = any(check.checked for check in checks.values())
        for step, check in checks.items():
            if check.fault is None and not check.checked and any_checked:
                self.notices.append(
                    f"the checkpoint of step {step} has no checksums and could not be checked"
                )
        for step, fault in faults.items():
            self.set_aside(step, fault)

    def set_aside(self, step: int, fault: str) -> None:
        """Move a checkpoint out of the way, into damaged/ of the run folder, with a notice.

        Args:
          step: the checkpoint's step.
          fault: why it cannot be used.
        """
        target = self._move_away(self._folder / str(step), f"checkpoint-{step}")
        self._saved.discard(step)
        if self._manager is not None:
            self._manager.reload()
        self.notices.append(
            f"the checkpoint of step {step} is not used: {fault}; it is kept as {target}"
        )

    def _move_away(self, path: pathlib.Path, name: str) -> pathlib.Path:
        folder = self._folder.parent / DAMAGED
        target = folder / name
        number = 1
        while target.exists():
            number += 1
            target = folder / f"{name}-{number}"
        if self._gathers or jax.process_index() == 0:
            folder.mkdir(exist_ok=True)
            path.rename(target)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"set aside {path.name}")
        return target

    def restore_latest(self, like: TrainState) -> tuple[TrainState, Position] | None:
        """Read the latest checkpoint that can be read; those that cannot are set aside.

        Args:
          like: as for `restore`.

        Returns:
          The state and its position; None if the run has no checkpoint.

        Raises:
          BadInput: none of the checkpoints can be read.
        """
        faults = []
        while (step := self.latest()) is not None:
            try:
                return self.restore(like, step)
            except DamagedCheckpoint as error:
                faults.append(f"{step}: {error}")
                self.set_aside(step, str(error))
        if faults:
            raise BadInput(
                f"{self._folder} had no checkpoint that could be read ({'; '.join(faults)}); "
                "accepted: the same command again, which starts from step 0"
            )
        return None

    def restore_named(self, like: TrainState, name: str) -> tuple[TrainState, Position]:
        """Read the checkpoint with a name, after those that are being written are complete."""
        self.wait()
        if self._gathers:
            wait_for_all("a checkpoint in the bucket")
            if not self._writes:
                self._bucket.fetch()
        return super().restore_named(like, name)

    def save(self, step: int, state: TrainState, data: dict[str, Any], score: float | None) -> None:
        """Start to write a checkpoint; do nothing if the step has one.

        Args:
          step: updates done.
          state: the state after them.
          data: the state of the data iterator, as JSON.
          score: the held-out score, if it is the best so far; None otherwise. Higher is better.

        Raises:
          OutputError: this checkpoint or the one before could not be written.
        """
        if step in self._saved:
            return
        self._saved.add(step)
        arrays = self._gathered(named_arrays(state))
        if not self._writes:
            return
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(arrays), data=ocp.args.JsonSave(data)
        )
        metrics = None if score is None else {"score": score}
        with self._writing():
            # The manager deletes older checkpoints, which must not get their checksums meanwhile.
            self._manager.wait_until_finished()
            self._collect_seals()
            self._manager.save(step, args=items, metrics=metrics)
        if jax.process_index() == 0:
            self._seals.append(self._sealer.submit(self._seal, step))

    def _gathered(self, tree: Any) -> Any:
        """The arrays as this process is to write them."""
        return on_first_host(tree) if self._gathers else tree

    def _seal(self, step: int) -> None:
        """Wait until a checkpoint has its final name, add its checksums, and send it."""
        path = self._folder / str(step)
        while not path.is_dir():
            if self._settled.wait(PATIENCE):
                break
        # A checkpoint that could not be written never gets it.
        if path.is_dir():
            write_checksums(path)
            if self._bucket is not None:
                self._bucket.push()

    def _collect_seals(self) -> None:
        """Wait for the checksums of complete checkpoints, and raise what went wrong with them."""
        self._settled.set()
        while self._seals:
            self._seals.pop(0).result()
        self._settled.clear()

    def wait(self) -> None:
        """Wait until everything is on disk.

        Raises:
          OutputError: the last checkpoint could not be written.
        """
        if not self._writes:
            return
        with self._writing():
            self._manager.wait_until_finished()
            self._collect_seals()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Turn whatever orbax and its storage raise into one sentence."""
        try:
            yield
        except OutputError:
            # Of the bucket.
            raise
        except Exception as error:
            last = max((step for step in self.steps() if not self.check(step).fault), default=None)
            whole = (
                "no checkpoint is there yet" if last is None else f"that of step {last} is whole"
            )
            raise OutputError(
                f"a checkpoint could not be written to {self._folder} ({system_reason(error)}); "
                f"{whole}: make room, then repeat the command with --output.resume"
            ) from error

    def save_initial(self, initial: Any, part: str = "adapters") -> None:
        """Write a part of the model as it is at step 0, for resumed runs to start from.

        Args:
          initial: a tree of arrays.
          part: the name of the part.

        Raises:
          BadInput: the part is made again because it was damaged, and differs from what it was.
          OutputError: it could not be written.
        """
        self.check_remade(initial, part)
        path = self._folder / INITIAL / part
        if path.exists():
            self._move_away(path, f"initial-{part}")
        initial = self._gathered(initial)
        if not self._writes:
            return
        with self._writing():
            processes = self._processes()
            with ocp.StandardCheckpointer(multiprocessing_options=processes) as checkpointer:
                checkpointer.save(path, initial)
            if jax.process_index() == 0:
                arrays = hash_arrays(initial) if jax.process_count() == 1 else None
                write_checksums(path, arrays)

    def close(self) -> None:
        """Wait until everything is on disk, and end the threads.

        Raises:
          OutputError: the last checkpoint could not be written.
        """
        try:
            with self._writing():
                if self._manager is not None:
                    self._manager.wait_until_finished()
                    self._manager.close()
        finally:
            self._settled.set()
            self._sealer.shutdown(wait=True)
        with self._writing():
            self._collect_seals()


def _is_news(record: logging.LogRecord) -> bool:
    """False for orbax's warning on a checkpoint without a score, as those between evaluations."""
    return "tracked_metric" not in record.getMessage()
