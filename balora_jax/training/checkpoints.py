"""Checkpoints: trainable weights, optimizer, random key and data position, nothing frozen."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as managers

from balora_jax.errors import BadInput
from balora_jax.training.state import TrainState

# A folder of its own, one level down: when the manager opens, it deletes unfinished checkpoints
# from its own folder.
INITIAL = "initial"


@dataclasses.dataclass(frozen=True)
class Position:
    """The position of a checkpoint in its run.

    Attributes:
      step: updates done.
      data: the state of the data iterator, as JSON.
    """

    step: int
    data: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run, written in the background.

    A checkpoint gets its final name only when it is complete, so that a killed run can always
    resume from its last one.
    """

    def __init__(self, folder: pathlib.Path, keep: int) -> None:
        """Open a folder of checkpoints.

        Args:
          folder: the folder; created if it does not exist.
          keep: how many of the latest checkpoints are kept, besides the one with the best score.
        """
        self._folder = folder.absolute()

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
        )
        self._manager = ocp.CheckpointManager(self._folder, options=options)

    def latest(self) -> int | None:
        """Return the step of the last complete checkpoint; None if there is none."""
        return self._manager.latest_step()

    def find(self, name: str) -> int:
        """Return the step of the checkpoint with a name.

        Args:
          name: `latest`, `best` (the highest score), or a step.

        Raises:
          BadInput: there is no such checkpoint; the message lists the steps.
        """
        steps = self._manager.all_steps()
        if name == "latest":
            step = max(steps, default=None)
        elif name == "best":
            step = self._best(steps)
        else:
            step = int(name) if name.isdecimal() else None
        if step not in steps:
            listed = ", ".join(map(str, sorted(steps))) or "none"
            raise BadInput(
                f"{self._folder} has no checkpoint {name!r}; accepted: latest, best, or of {listed}"
            )
        return step

    def _best(self, steps: Sequence[int]) -> int | None:
        """The step with the highest score; None if no checkpoint has a score."""
        scores = {}
        for step in steps:
            metrics = self._manager.metrics(step)
            if metrics:
                scores[step] = metrics["score"]
        return max(scores, key=scores.get, default=None)

    def save(self, step: int, state: TrainState, data: dict[str, Any], score: float | None) -> None:
        """Start to write a checkpoint; do nothing if the step has one.

        Args:
          step: updates done.
          state: the state after them.
          data: the state of the data iterator, as JSON.
          score: the held-out score, if it is the best so far; None otherwise. Higher is better.
        """
        if step in self._manager.all_steps():
            return
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(_named(state)), data=ocp.args.JsonSave(data)
        )
        metrics = None if score is None else {"score": score}
        self._manager.save(step, args=items, metrics=metrics)

    def restore(self, like: TrainState, step: int | None = None) -> tuple[TrainState, Position]:
        """Read the state of a step.

        Args:
          like: a state of arrays or shapes, with the shardings to restore to.
          step: the checkpoint's step; the latest by default.

        Returns:
          The state and its position in the run.
        """
        self._manager.wait_until_finished()
        step = self.latest() if step is None else step
        abstract = jax.tree.map(_abstract, _named(like))
        items = ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract), data=ocp.args.JsonRestore()
        )
        restored = self._manager.restore(step, args=items)
        leaves = [restored["state"][name] for name in _named(like)]
        state = jax.tree.unflatten(jax.tree.structure(like), leaves)
        return state, Position(step, restored["data"])

    def save_initial(self, initial: Any, part: str = "adapters") -> None:
        """Write a part of the model as it is at step 0, for resumed runs to start from.

        Args:
          initial: a tree of arrays.
          part: the name of the part.
        """
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(self._folder / INITIAL / part, initial)

    def restore_initial(self, like: Any | None, part: str = "adapters") -> Any | None:
        """Read a part of the model as it was at step 0.

        Args:
          like: a tree of arrays or shapes, with the shardings to restore to; None if the run has
            no such part.
          part: the name of the part.

        Returns:
          The tree; None if the run has no such part, or was stopped before it was written.
        """
        path = self._folder / INITIAL / part
        if like is None or not path.exists():
            return None
        with ocp.StandardCheckpointer() as checkpointer:
            return checkpointer.restore(path, jax.tree.map(_abstract, like))

    def close(self) -> None:
        """Wait until everything is on disk."""
        self._manager.wait_until_finished()
        self._manager.close()


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    """The shape, dtype and sharding of a leaf."""
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


def _named(state: TrainState) -> dict[str, jax.Array]:
    """The arrays of a state by their paths; frozen leaves, which are None, are left out."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}
