"""The rows of a data set: a local jsonl, json, csv or parquet file, or a set on the hub.

JSON is read here and not by `datasets`, whose reader names no line in its errors, stops at a blank
line beside mixed types, and fails where a late row's type differs. `datasets` reads the rest.
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
    """The rows of a data set, with their places in the file for messages.

    Attributes:
      source: the file or the hub name.
      columns: every field that some row has.
      rows: field -> value, for each row.
      lines: the line of each row in the file; None where rows have no lines.
    """

    source: str
    columns: tuple[str, ...]
    rows: Sequence[Mapping[str, Any]]
    lines: Sequence[int] | None = None

    def where(self, index: int) -> str:
        """Name row `index` for a message: `FILE, line 12` or `NAME, row 12`."""
        if self.lines is None:
            return f"{self.source}, row {index + 1}"
        return f"{self.source}, line {self.lines[index]}"

    def require(self, fields: Sequence[str], *, note: str = "") -> None:
        """Check that the data set has fields.

        Args:
          fields: their names.
          note: for the message, the configuration that asks for them.

        Raises:
          BadInput: some are missing; the message lists those that exist.
        """
        missing = [field for field in fields if field not in self.columns]
        if missing:
            raise BadInput(
                f"{self.source} has no field {', '.join(missing)}{note}; "
                f"it has: {', '.join(self.columns)}"
            )


def load_rows(
    source: str, *, subset: str | None = None, split: str = "train", limit: int | None = None
) -> Rows:
    """Load the rows of a data set.

    Args:
      source: a file with one of the suffixes above, or a hub name.
      subset: the configuration of a hub set.
      split: the split of a hub set.
      limit: the number of rows to load, from the first; None for all.

    Returns:
      The rows, at least one.

    Raises:
      BadInput: the source does not exist, is of an unknown kind, cannot be read, or has no rows.
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
        rows = _load_table(
            str(path),
            limit,
            path="csv",
            data_files=str(path),
            split="train",
            features=text,
            keep_default_na=False,
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
    """List the lines on which the first rows begin; None where the csv reader cannot tell."""
    with path.open(encoding="utf-8-sig", newline="") as text, contextlib.suppress(csv.Error):
        # The first line is the header's.
        lines = list(itertools.islice(_first_lines(csv.reader(text)), number + 1))
        if len(lines) == number + 1:
            return lines[1:]
    return None


def _first_lines(reader: Any) -> Iterator[int]:
    """Yield each row's first line: cells may have line breaks, and blank lines are no rows."""
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
        # `datasets` lets through whatever pyarrow, pandas or the network raise.
        except Exception as error:
            cause = error
            if isinstance(error, datasets.exceptions.DatasetGenerationError):
                cause = error.__cause__
            if "corresponds to no data" in str(cause):
                raise BadInput(
                    f"{source} has no rows; accepted: a data set with at least one"
                ) from error
            raise BadInput(
                f"{source} cannot be loaded: {_first_line(cause)}; accepted: {ACCEPTED}"
            ) from error
    count = min(limit or len(table), len(table))
    table = table.select(range(count))
    return Rows(source, tuple(table.column_names), table)


def _first_line(error: BaseException | None) -> str:
    """Return the first line of an error's message, without the full stop."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the progress bars and the log of `datasets`."""
    import datasets

    hidden = datasets.are_progress_bars_disabled()
    verbosity = datasets.logging.get_verbosity()
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
            numbered = list(itertools.islice(_json_rows(path, text), limit))
    except UnicodeDecodeError as error:
        raise BadInput(
            f"{path} is not text in UTF-8 ({error.reason} at byte {error.start})"
        ) from error
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise BadInput(f"{path} is not a whole gzip file: {_first_line(error)}") from error
    lines = [line for line, _ in numbered]
    rows = [row for _, row in numbered]
    # A dict keeps the order of the fields.
    columns = dict.fromkeys(name for row in rows for name in row)
    return Rows(str(path), tuple(columns), rows, lines)


def _open_text(path: Path) -> Any:
    opened = gzip.open if path.suffix == ".gz" else open
    return opened(path, mode="rt", encoding="utf-8-sig")


def _json_rows(path: Path, text: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield each row with its line: one object a line, or (.json) one list of objects."""
    if path.name.endswith((".json", ".json.gz")) and _starts_with(text, "["):
        for index, row in enumerate(_parse(path, 1, text.read()), start=1):
            yield index, _require_object(row, f"{path}, item {index}")
        return
    for number, line in enumerate(text, start=1):
        if line.strip():
            row = _parse(path, number, line.rstrip())
            yield number, _require_object(row, f"{path}, line {number}")


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
