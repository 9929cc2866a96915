"""The log of a run's records: metrics.jsonl, and the loggers that get them, too."""

import contextlib
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, Self, TextIO

from balora_jax.errors import BadInput, reason_of
from balora_jax.training.records import Record, parse_record
from balora_jax.training.replacing import write_whole

Outcome = Literal["finished", "stopped", "failed"]


class Logger(Protocol):
    """A receiver of a run's records beside metrics.jsonl; a failure of its own stops no run."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Take the numbers of a record by name."""
        ...

    def close(self, outcome: Outcome, summary: Mapping[str, Any] | None) -> None:
        """Take the run's outcome, and the content of summary.json if it has finished."""
        ...


class MetricsLog:
    """A context that appends records to metrics.jsonl and passes them to loggers."""

    def __init__(
        self,
        path: pathlib.Path,
        *,
        after: int = 0,
        loggers: Sequence[Logger] = (),
        writes: bool = True,
    ) -> None:
        """Open the log; a resumed run drops the records that came after its checkpoint.

        Args:
          path: metrics.jsonl.
          after: the step that the run resumes from. Records of later steps are dropped; -1 drops
            all.
          loggers: get every record, and are closed with the log.
          writes: False in the processes of other hosts, which keep records and write none.
        """
        kept = [line for line in _lines(path) if json.loads(line)["step"] <= after]
        self._records = [parse_record(json.loads(line)) for line in kept]
        self._path = path
        self._file: TextIO | None = None
        if writes:
            write_whole(path, "".join(kept))
            self._file = path.open("a", buffering=1)
        self._loggers = loggers
        self._summary: Mapping[str, Any] | None = None

    def __enter__(self) -> Self:
        """Return the log."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Close the file and the loggers, with the run's outcome."""
        outcome: Outcome = "stopped" if kind is None else "failed"
        if self._summary is not None:
            outcome = "finished"
        # Each is closed, whatever happens to the others.
        with contextlib.ExitStack() as closing:
            for logger in self._loggers:
                closing.callback(logger.close, outcome, self._summary)
            if self._file is not None:
                closing.callback(self._file.close)

    def records(self) -> list[Record]:
        """Read all records, including those from before a resumed run was stopped."""
        return list(self._records)

    def write(self, record: Record) -> None:
        """Write one record."""
        values = record.to_json()
        self._records.append(parse_record(values))
        try:
            if self._file is not None:
                self._file.write(json.dumps(values) + "\n")
        except OSError as error:
            # Python names no file where a write fails.
            raise OSError(error.errno, error.strerror, str(self._path)) from error
        numbers = {name: value for name, value in values.items() if name != "step"}
        for logger in self._loggers:
            logger.write(record.step, numbers)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Take the content of summary.json: the run has finished."""
        self._summary = summary


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
