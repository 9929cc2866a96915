"""What a run needs to go on: adapters, optimizer, random key and data position, never a frozen weight."""

import dataclasses
import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as managers

from balora_jax.errors import BadInput
from balora_jax.training.state import TrainState

# One folder down: what the manager clears of half-written checkpoints when it opens are its own folder's children.
INITIAL = "initial"


@dataclasses.dataclass(frozen=True)
class Position:
    """Where a checkpoint stands: updates done, and the data iterator's own state."""

    step: int
    data: dict[str, Any]


class Checkpoints:
    """Checkpoints of one run: written in the background, the latest `keep` and the best by their score kept.

    A checkpoint appears under its final name only when it is whole, so a killed run always finds its last one.
    """

    def __init__(self, folder: pathlib.Path, keep: int) -> None:
        self._folder = folder.absolute()

        def score(metrics: dict[str, float]) -> float:
            return metrics["score"]

        best = managers.BestN(get_metric_fn=score, n=1, keep_checkpoints_without_metrics=False)
        options = ocp.CheckpointManagerOptions(
            # Without a best_fn the manager does not store metrics; which checkpoints stay, the policy says.
            best_fn=score,
            best_mode="max",
            preservation_policy=managers.AnyPreservationPolicy([managers.LatestN(keep), best]),
            save_decision_policy=managers.FixedIntervalPolicy(1),
            cleanup_tmp_directories=True,
        )
        self._manager = ocp.CheckpointManager(self._folder, options=options)

    def latest(self) -> int | None:
        """The last whole checkpoint's step, or None."""
        return self._manager.latest_step()

    def find(self, name: str) -> int:
        """The step that `latest`, `best` (by its score) or a number names.

        Raises:
          BadInput: no such checkpoint; says which there are.
        """
        steps = self._manager.all_steps()
        scored = {step: self._manager.metrics(step) for step in steps} if name == "best" else {}
        measured = {step: metrics["score"] for step, metrics in scored.items() if metrics}
        named = {
            "latest": max(steps, default=None),
            "best": max(measured, key=measured.get, default=None),
        }
        step = named.get(name, int(name) if name.isdecimal() else None)
        if step not in steps:
            there = ", ".join(map(str, sorted(steps))) or "none"
            raise BadInput(
                f"{self._folder} has no checkpoint {name!r}; accepted: latest, best, or of {there}"
            )
        return step

    def save(self, step: int, state: TrainState, data: dict[str, Any], score: float | None) -> None:
        """Begins to write a checkpoint; `score` says how good it is held out, if none was as good before."""
        if step in self._manager.all_steps():
            return
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(_named(state)), data=ocp.args.JsonSave(data)
        )
        self._manager.save(step, args=items, metrics=None if score is None else {"score": score})

    def restore(self, like: TrainState, step: int | None = None) -> tuple[TrainState, Position]:
        """The state of a step.

        Args:
          like: arrays or shapes, with the shardings to restore to.
          step: which; the latest by default.

        Returns:
          (state, position).
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
        """Write a part as it was at step 0, once a run: a resumed run must start from the same.

        Args:
          initial: a tree of arrays.
          part: its name.
        """
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(self._folder / INITIAL / part, initial)

    def restore_initial(self, like: Any | None, part: str = "adapters") -> Any | None:
        """A part as it was at step 0.

        Args:
          like: arrays or shapes, with the shardings to restore to; None where there is no part.
          part: its name.

        Returns:
          The tree, or None if the run has none or was stopped before it was written.
        """
        path = self._folder / INITIAL / part
        if like is None or not path.exists():
            return None
        with ocp.StandardCheckpointer() as checkpointer:
            return checkpointer.restore(path, jax.tree.map(_abstract, like))

    def close(self) -> None:
        """Waits until everything is on disk; also when the run ends in an exception (contextlib.closing)."""
        self._manager.wait_until_finished()
        self._manager.close()


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


def _named(state: TrainState) -> dict[str, jax.Array]:
    """The state's arrays by their paths; the places of frozen leaves leave no trace."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}
