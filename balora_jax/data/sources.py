"""Rows of a data set: a local jsonl, json, csv or parquet file, or a name on the hub.

JSON is read here, not by `datasets`: its reader names no line in its errors, stops at a blank line beside mixed
types, and fails when a late row's type differs. Everything else (csv, parquet, the hub) is `datasets`' work.
"""

import contextlib
import csv
import gzip
import itertools
import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from balora_jax.errors import BadInput

JSON_SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz")
TABLE_SUFFIXES = (".csv", ".parquet")
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
ACCEPTED = "a .jsonl, .jsonl.gz, .json, .csv or .parquet file, or a hub name such as openai/gsm8k"


@dataclass(frozen=True)
class Rows:
    """A data set's rows in their order, with what is needed to say where one of them is.

    Args:
        source: the file or hub name they came from.
        columns: every field that some row has.
        rows: one mapping a row.
        lines: each row's line in the file, where it has one.
    """

    source: str
    columns: tuple[str, ...]
    rows: Sequence[Mapping[str, Any]]
    lines: Sequence[int] | None = None

    def where(self, index: int) -> str:
        """Name row `index` for an error message: `FILE, line 12` or `NAME, row 12`."""
        if self.lines is None:
            return f"{self.source}, row {index + 1}"
        return f"{self.source}, line {self.lines[index]}"


def load_rows(
    source: str, *, subset: str | None = None, split: str = "train", limit: int | None = None
) -> Rows:
    """Load a data set's rows.

    Args:
        source: a file with one of the suffixes above, or a hub name.
        subset: a hub set's configuration.
        split: a hub set's split.
        limit: only so many of the first rows; None for all.

    Returns:
        The rows, at least one.

    Raises:
        BadInput: nothing is there, its kind is unknown, it cannot be read, or it has no rows.
    """
    rows = _load(source, subset, split, limit)
    if not len(rows.rows):
        raise BadInput(f"{source} has no rows; accepted: a data set with at least one")
    return rows


def _load(source: str, subset: str | None, split: str, limit: int | None) -> Rows:
    path = Path(source).expanduser()
    if path.is_file():
        return _load_file(path, limit)
    if path.is_dir():
        raise BadInput(f"{source} is a folder; accepted: {ACCEPTED}")
    if source.endswith(JSON_SUFFIXES + TABLE_SUFFIXES) or not HUB_NAME.fullmatch(source):
        raise BadInput(f"{source} does not exist; accepted: {ACCEPTED}")
    return _load_table(source, limit, path=source, name=subset, split=split)


def _load_file(path: Path, limit: int | None) -> Rows:
    if path.name.endswith(JSON_SUFFIXES):
        return _load_json(path, limit)
    if path.suffix == ".csv":
        # Cells stay as written: no 007 -> 7, no "None" -> missing.
        import datasets

        text = datasets.Features({name: datasets.Value("string") for name in _header(path)})
        kept = {"features": text, "keep_default_na": False}
        rows = _load_table(
            str(path), limit, path="csv", data_files=str(path), split="train", **kept
        )
        return replace(rows, lines=_csv_lines(path, len(rows.rows)))
    if path.suffix == ".parquet":
        return _load_table(str(path), limit, path="parquet", data_files=str(path), split="train")
    raise BadInput(f"{path} ends in none of the known suffixes; accepted: {ACCEPTED}")


def _header(path: Path) -> list[str]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            header = next(csv.reader(lines), [])
    except UnicodeDecodeError as error:
        raise BadInput(
            f"{path} is not text in UTF-8 ({error.reason} at byte {error.start})"
        ) from error
    if not header:
        raise BadInput(f"{path} is empty; accepted: a csv file whose first line names its fields")
    return header


def _csv_lines(path: Path, number: int) -> list[int] | None:
    """The line each of the first rows begins on; None where it cannot be told."""
    with path.open(encoding="utf-8-sig", newline="") as text, contextlib.suppress(csv.Error):
        begins = list(itertools.islice(_begins(csv.reader(text)), number + 1))
        # The first one is the header's.
        return begins[1:] if len(begins) == number + 1 else None
    return None


def _begins(reader: Any) -> Iterator[int]:
    """The line each row begins on: cells may have line breaks, and blank lines are no rows."""
    end = 0
    for row in reader:
        if row:
            yield end + 1
        end = reader.line_num


def _load_table(source: str, limit: int | None, **arguments: Any) -> Rows:
    import datasets

    with _quiet():
        try:
            table = datasets.load_dataset(**arguments)
        except (
            Exception
        ) as error:  # datasets lets through whatever pyarrow, pandas or the network raise
            cause = (
                error.__cause__
                if isinstance(error, datasets.exceptions.DatasetGenerationError)
                else error
            )
            if "corresponds to no data" in str(cause):
                raise BadInput(
                    f"{source} has no rows; accepted: a data set with at least one"
                ) from error
            raise BadInput(
                f"{source} cannot be loaded: {_first_line(cause)}; accepted: {ACCEPTED}"
            ) from error
    table = table.select(range(min(limit or len(table), len(table))))
    return Rows(source, tuple(table.column_names), table)


def _first_line(error: BaseException | None) -> str:
    """The first line of a library's message, without the full stop."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars, and no log line beside the one sentence a failure gets."""
    import datasets

    hidden, verbosity = datasets.are_progress_bars_disabled(), datasets.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    try:
        yield
    finally:
        datasets.logging.set_verbosity(verbosity)
        if not hidden:
            datasets.enable_progress_bars()


def _load_json(path: Path, limit: int | None) -> Rows:
    try:
        with _open_text(path) as text:
            found = list(itertools.islice(_json_rows(path, text), limit))
    except UnicodeDecodeError as error:
        raise BadInput(
            f"{path} is not text in UTF-8 ({error.reason} at byte {error.start})"
        ) from error
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise BadInput(f"{path} is not a whole gzip file: {_first_line(error)}") from error
    columns = dict.fromkeys(name for _, row in found for name in row)
    return Rows(str(path), tuple(columns), [row for _, row in found], [line for line, _ in found])


def _open_text(path: Path) -> Any:
    opened = gzip.open if path.suffix == ".gz" else open
    return opened(path, mode="rt", encoding="utf-8-sig")


def _json_rows(path: Path, text: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each row with the line it begins on: one object a line, or (.json) one list of objects."""
    if path.name.endswith((".json", ".json.gz")) and _starts_with(text, "["):
        for index, row in enumerate(_parse(path, 1, text.read()), start=1):
            yield index, _require_object(row, f"{path}, item {index}")
        return
    for number, line in enumerate(text, start=1):
        if line.strip():
            yield (
                number,
                _require_object(_parse(path, number, line.rstrip()), f"{path}, line {number}"),
            )


def _starts_with(text: Any, character: str) -> bool:
    start = text.read(1)
    while start.isspace():
        start = text.read(1)
    text.seek(0)
    return start == character


def _parse(path: Path, line: int, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        at = f"line {line + error.lineno - 1}, column {error.colno}"
        raise BadInput(f"{path}, {at} is not JSON: {error.msg}") from error


def _require_object(row: Any, where: str) -> dict[str, Any]:
    if isinstance(row, dict):
        return row
    raise BadInput(
        f'{where} is not an object but {type(row).__name__}; accepted: {{"field": value, ...}}'
    )
