"""metrics.jsonl and TensorBoard: the log of a run's records."""

import json
import pathlib

from tensorboardX import SummaryWriter

from balora_jax.training.records import Record, parse_record


class MetricsLog:
    """Appends records to metrics.jsonl and TensorBoard."""

    def __init__(self, path: pathlib.Path, *, after: int = 0) -> None:
        """Open the log; a resumed run drops the records that came after its checkpoint.

        Args:
          path: metrics.jsonl; TensorBoard's folder lies beside it.
          after: the checkpoint's step.
        """
        kept = [line for line in _lines(path) if json.loads(line)["step"] <= after]
        path.write_text("".join(kept))
        self._path = path
        self._file = path.open("a", buffering=1)
        purged_from = after + 1 if after else None
        self._board = SummaryWriter(str(path.parent / "tensorboard"), purge_step=purged_from)

    def records(self) -> list[Record]:
        """All records, those of a resumed run's first part included."""
        return read_records(self._path)

    def write(self, record: Record) -> None:
        """Write one record."""
        values = record.to_json()
        self._file.write(json.dumps(values) + "\n")
        for name, value in values.items():
            if name != "step":
                self._board.add_scalar(name, value, record.step)

    def close(self) -> None:
        """Close both."""
        self._file.close()
        self._board.close()


def read_records(path: pathlib.Path) -> list[Record]:
    """The records of a run's metrics.jsonl."""
    return [parse_record(json.loads(line)) for line in _lines(path)]


def _lines(path: pathlib.Path) -> list[str]:
    """The whole lines of the log; a killed run may have left half a one."""
    text = path.read_text() if path.exists() else ""
    return [line for line in text.splitlines(keepends=True) if line.endswith("\n")]
