"""metrics.jsonl and TensorBoard: one record a step."""

import json
import math
import pathlib
from collections.abc import Mapping

from tensorboardX import SummaryWriter

from balora_jax.errors import Diverged

PARTS = ("task", "consistency", "diversity", "svd")


class MetricsLog:
    """Appends records to metrics.jsonl and TensorBoard; a resumed run first drops what came after its checkpoint."""

    def __init__(self, path: pathlib.Path, *, after: int = 0) -> None:
        kept = [line for line in _lines(path) if json.loads(line)["step"] <= after]
        path.write_text("".join(kept))
        self._path = path
        self._file = path.open("a", buffering=1)
        self._board = SummaryWriter(
            str(path.parent / "tensorboard"), purge_step=after + 1 if after else None
        )

    def records(self) -> list[dict[str, float]]:
        """All records, those of a resumed run's first part too."""
        return [json.loads(line) for line in _lines(self._path)]

    def write(self, record: Mapping[str, float]) -> None:
        """Writes one record; it has a `step`."""
        self._file.write(json.dumps(record) + "\n")
        for name, value in record.items():
            if name != "step":
                self._board.add_scalar(name, value, record["step"])

    def close(self) -> None:
        self._file.close()
        self._board.close()


def _lines(path: pathlib.Path) -> list[str]:
    """The whole lines of the log; a killed run may have left half a one."""
    text = path.read_text() if path.exists() else ""
    return [line for line in text.splitlines(keepends=True) if line.endswith("\n")]


def check_finite(record: Mapping[str, float]) -> None:
    """Raises Diverged, naming the step and the parts, when the loss or a gradient is not finite."""
    if not all(math.isfinite(record[name]) for name in ("loss", "gradient_norm")):
        parts = ", ".join(
            f"{name} {record[name]:.4g}"
            for name in ("loss", *PARTS, "gradient_norm")
            if name in record
        )
        raise Diverged(
            f"the loss is not finite at step {record['step']}: {parts}; the last good checkpoint is kept"
        )
