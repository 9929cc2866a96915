"""The log of a run's records: metrics.jsonl and TensorBoard."""

import json
import pathlib

from tensorboardX import SummaryWriter

from balora_jax.errors import BadInput, reason_of
from balora_jax.training.records import Record, parse_record
from balora_jax.training.replacing import write_whole


class MetricsLog:
    """A log that appends records to metrics.jsonl and TensorBoard."""

    def __init__(self, path: pathlib.Path, *, after: int = 0) -> None:
        """Open the log; a resumed run drops the records that came after its checkpoint.

        Args:
          path: metrics.jsonl. TensorBoard's folder is in the same folder.
          after: the step that the run resumes from. Records of later steps are dropped; -1 drops
            all.
        """
        kept = [line for line in _lines(path) if json.loads(line)["step"] <= after]
        write_whole(path, "".join(kept))
        self._path = path
        self._file = path.open("a", buffering=1)
        purged_from = after + 1 if after else None
        self._board = SummaryWriter(str(path.parent / "tensorboard"), purge_step=purged_from)

    def records(self) -> list[Record]:
        """Read all records, including those from before a resumed run was stopped."""
        return read_records(self._path)

    def write(self, record: Record) -> None:
        """Write one record."""
        values = record.to_json()
        try:
            self._file.write(json.dumps(values) + "\n")
        except OSError as error:
            # Python names no file where a write fails.
            raise OSError(error.errno, error.strerror, str(self._path)) from error
        for name, value in values.items():
            if name != "step":
                self._board.add_scalar(name, value, record.step)

    def close(self) -> None:
        """Close the file and TensorBoard."""
        self._file.close()
        self._board.close()


def read_records(path: pathlib.Path) -> list[Record]:
    """Read the records of a run.

    Args:
      path: metrics.jsonl.
    """
    records = []
    for number, line in enumerate(_lines(path), start=1):
        try:
            records.append(parse_record(json.loads(line)))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise BadInput(
                f"{path}, line {number} is no record of a run ({reason_of(error)}); "
                "accepted: the file as the run wrote it"
            ) from error
    return records


def _lines(path: pathlib.Path) -> list[str]:
    """The complete lines of the log; a killed run may have left an incomplete last line."""
    try:
        text = path.read_text() if path.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} cannot be read ({reason_of(error)})") from error
    return [line for line in text.splitlines(keepends=True) if line.endswith("\n")]
