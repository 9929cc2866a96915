"""The checkpoints on disk, read and checked; nothing is written or cleaned up."""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp

from balora_jax.errors import BadInput, reason_of
from balora_jax.training.checksums import (
    CHECKSUMS,
    Check,
    are_damaged,
    check_checksums,
    hash_arrays,
)
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


class DamagedCheckpoint(RuntimeError):
    """A checkpoint that is incomplete, has changed, or cannot be read; the message says which."""


class SavedCheckpoints:
    """The checkpoints of one run, for readers; a run may be writing more of them meanwhile.

    Attributes:
      notices: sentences for a person to read, such as that a damaged checkpoint was left out.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        """Name the folder.

        Args:
          folder: the folder of checkpoints.
        """
        self._folder = folder.absolute()
        self.notices: list[str] = []
        # The hashes of the parts of step 0 that are damaged, to compare with what is made again.
        self._lost: dict[str, str | None] = {}

    def steps(self) -> list[int]:
        """List the steps that have a complete checkpoint, in ascending order."""
        if not self._folder.is_dir():
            return []
        names = [path.name for path in self._folder.iterdir()]
        return sorted(int(name) for name in names if _is_step(name))

    def latest(self) -> int | None:
        """Return the step of the last complete checkpoint; None if there is none."""
        return max(self.steps(), default=None)

    def find(self, name: str) -> int:
        """Return the step of the checkpoint with a name.

        Args:
          name: `latest`, `best` (the highest score), or a step.

        Raises:
          BadInput: there is no such checkpoint; the message lists the steps.
        """
        steps = self.steps()
        if name == "latest":
            step = max(steps, default=None)
        elif name == "best":
            scores = {step: self._score(step) for step in steps}
            scored = [step for step in steps if scores[step] is not None]
            step = max(scored, key=scores.get, default=None)
        else:
            step = int(name) if _is_step(name) else None
        if step not in steps:
            if not steps:
                raise BadInput(
                    f"{self._folder} has no checkpoint yet; accepted: a run that has saved one"
                )
            listed = ", ".join(map(str, steps))
            if name == "best":
                raise BadInput(
                    f"{self._folder} has no checkpoint with a held-out score, which best is chosen "
                    f"by; accepted: latest, or of {listed}"
                )
            raise BadInput(
                f"{self._folder} has no checkpoint {name[:100]!r}; "
                f"accepted: latest, best, or of {listed}"
            )
        return step

    def check(self, step: int) -> Check:
        """Compare the files of a checkpoint with its checksums.

        Args:
          step: the checkpoint's step.
        """
        check = check_checksums(self._folder / str(step))
        if check.fault is None and not check.checked and not self._opens(step):
            return dataclasses.replace(check, fault="it is incomplete or not readable")
        return check

    def restore(self, like: TrainState, step: int) -> tuple[TrainState, Position]:
        """Read the state of a step.

        Args:
          like: a state of arrays or shapes, with the shardings to restore to; what `...` stands
            for is not read.
          step: the checkpoint's step.

        Returns:
          The state and its position in the run.

        Raises:
          DamagedCheckpoint: the checkpoint cannot be used.
        """
        check = self.check(step)
        if check.fault is not None:
            raise DamagedCheckpoint(check.fault)
        named = named_arrays(like)
        wanted = {name: _abstract(leaf) for name, leaf in named.items() if leaf is not ...}
        state = ocp.args.PyTreeRestore(
            wanted,
            restore_args=ocp.checkpoint_utils.construct_restore_args(wanted),
            partial_restore=True,
        )
        items = ocp.args.Composite(state=state, data=ocp.args.JsonRestore())
        try:
            with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
                restored = checkpointer.restore(self._folder / str(step), args=items)
            leaves = [
                ... if leaf is ... else restored["state"][name] for name, leaf in named.items()
            ]
        except Exception as error:  # orbax and its storage raise anything for a damaged file
            if check.checked and self.check(step).fault is None:
                # The files are as they were written: the fault is another, such as full memory.
                raise
            raise DamagedCheckpoint(f"it cannot be read ({reason_of(error)})") from error
        state = jax.tree.unflatten(jax.tree.structure(like), leaves)
        return state, Position(step, restored["data"])

    def find_whole(self, name: str) -> int:
        """Return the step of the checkpoint with a name; where that is `latest`, of a whole one.

        Args:
          name: as for `find`.

        Raises:
          BadInput: there is no such checkpoint, or it is damaged.
        """
        step = self.find(name)
        faults = {}
        candidates = reversed(self.steps()) if name == "latest" else [step]
        for step in candidates:
            fault = self.check(step).fault
            if fault is None:
                return step
            faults[step] = fault
            self.notices.append(f"the checkpoint of step {step} is left out: {fault}")
        raise self._refusal(name, faults)

    def contents(self, step: int) -> list[tuple[str, str | None, str | None]]:
        """Describe a checkpoint and the parts of step 0, to compare with another copy of the run.

        Args:
          step: the checkpoint's step.

        Returns:
          (name, its fault, the hash of its checksums) of each; None for no fault or no checksums.
        """
        parts = [self._folder / str(step), *sorted((self._folder / INITIAL).glob("[!.]*"))]
        found = []
        for path in parts:
            file = path / CHECKSUMS
            digest = hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else None
            found.append((path.name, check_checksums(path).fault, digest))
        return found

    def restore_named(self, like: TrainState, name: str) -> tuple[TrainState, Position]:
        """Read the checkpoint with a name; where that is `latest`, the latest whole one.

        Args:
          like: as for `restore`.
          name: as for `find`.

        Returns:
          As `restore`.

        Raises:
          BadInput: there is no such checkpoint, or it is damaged.
        """
        step = self.find(name)
        # Of a run that is still training, older ones disappear while newer ones appear.
        tried: dict[int, str] = {}
        while step is not None:
            try:
                restored = self.restore(like, step)
                if are_damaged(self._folder / str(step)):
                    self.notices.append(f"the checksums of step {step} are damaged")
                return restored
            except DamagedCheckpoint as error:
                tried[step] = str(error)
                if step in self.steps():
                    self.notices.append(f"the checkpoint of step {step} is left out: {error}")
            left = [other for other in self.steps() if other not in tried]
            step = max(left, default=None) if name == "latest" else None
        raise self._refusal(name, tried)

    def _refusal(self, name: str, faults: Mapping[int, str]) -> BadInput:
        listed = "; ".join(f"{step}: {fault}" for step, fault in faults.items())
        return BadInput(
            f"{self._folder} has no whole checkpoint {name!r} ({listed}); "
            "accepted: another --checkpoint, or a whole copy of it"
        )

    def restore_initial(self, like: Any | None, part: str = "adapters") -> Any | None:
        """Read a part of the model as it was at step 0.

        Args:
          like: a tree of arrays or shapes, with the shardings to restore to; None if the run has
            no such part.
          part: the name of the part.

        Returns:
          The tree; None if the run has no such part, or was stopped before it was written, or if it
          is damaged, so that it must be made again (see `check_remade`).
        """
        path = self._folder / INITIAL / part
        if like is None or not path.exists():
            return None
        check = check_checksums(path)
        if are_damaged(path):
            self.notices.append(f"the checksums of {path} are damaged: it could not be checked")
        fault = check.fault
        if fault is None:
            try:
                with ocp.StandardCheckpointer() as checkpointer:
                    return checkpointer.restore(path, jax.tree.map(_abstract, like))
            except Exception as error:  # orbax and its storage raise anything for a damaged file
                fault = f"it cannot be read ({reason_of(error)})"
        self._lost[part] = check.arrays
        self.notices.append(f"{path} is damaged and is made again: {fault}")
        return None

    def check_remade(self, remade: Any, part: str = "adapters") -> None:
        """Check that a damaged part of step 0 has been made again as it was.

        Args:
          remade: the tree.
          part: the name of the part.

        Raises:
          BadInput: it differs, or what it was is not known.
        """
        if part not in self._lost:
            return
        if self._lost[part] != hash_arrays(remade):
            path = self._folder / INITIAL / part
            raise BadInput(
                f"{path} is damaged, and what is made in its place differs, "
                "or cannot be compared; accepted: a whole copy of that folder"
            )
        del self._lost[part]

    def _score(self, step: int) -> float | None:
        """The held-out score of a checkpoint; None if it has none."""
        try:
            return float(_read_json(self._folder / str(step) / "metrics" / "metrics")["score"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _opens(self, step: int) -> bool:
        """Return True if the JSON files of a checkpoint without checksums can be parsed."""
        folder = self._folder / str(step)
        try:
            position = _read_json(folder / "data" / "metadata")
            metrics = folder / "metrics" / "metrics"
            if metrics.exists():
                _read_json(metrics)
        except (OSError, ValueError, RecursionError):
            return False
        return isinstance(position, dict) and position != {} and (folder / "state").is_dir()


def _is_step(name: str) -> bool:
    return name.isascii() and name.isdecimal() and len(name) < 20


def _read_json(path: pathlib.Path) -> Any:
    """Read a JSON file; a named pipe, which would wait for a writer, is no file."""
    if not path.is_file():
        raise FileNotFoundError(path)
    return json.loads(path.read_text())


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    """The shape, dtype and sharding of a leaf."""
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


def named_arrays(state: TrainState) -> dict[str, jax.Array]:
    """List the arrays of a state by their paths; frozen leaves, which are None, are left out."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}
