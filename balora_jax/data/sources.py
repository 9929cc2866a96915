"""The rows of a data set: local jsonl, json, csv or parquet files, or a set on the hub."""

import contextlib
import glob
import itertools
import os
import re
import stat
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from balora_jax.data.csv_files import read_csv
from balora_jax.data.json_files import json_rows
from balora_jax.data.row_sequences import ChosenRows, FiledRows, JoinedRows
from balora_jax.data.source_files import (
    JSON_SUFFIXES,
    SUFFIXES,
    folder_files,
    is_pattern,
    matching_files,
)
from balora_jax.errors import BadInput, first_line, listed, reason_of, shown

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
ACCEPTED = (
    "a .jsonl, .jsonl.gz, .json, .csv or .parquet file, a folder or a pattern of them, or a hub "
    "name such as openai/gsm8k"
)
# A column of a parquet file may repeat one value without end; rows of text need bytes.
ROWS_PER_BYTE = 100


@dataclass(frozen=True)
class Rows:
    """The rows of a data set, with their places in the file for messages.

    Attributes:
      source: the file, folder, pattern or hub name.
      columns: every field that some row has.
      rows: field -> value, for each row.
      lines: the line of each row in the file; None where rows have no lines.
      places: the file and line of each row, where they are of several files.
    """

    source: str
    columns: tuple[str, ...]
    rows: Sequence[Mapping[str, Any]]
    lines: Sequence[int] | None = None
    places: Sequence[str] | None = None

    def where(self, index: int) -> str:
        """Name row `index` for a message: `FILE, line 12` or `NAME, row 12`."""
        if self.places is not None:
            return self.places[index]
        if self.lines is None:
            return f"{self.source}, row {index + 1}"
        return f"{self.source}, line {self.lines[index]}"

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        """Iterate over the rows.

        Raises:
          BadInput: a value of a parquet file cannot be read.
        """
        rows = iter(self.rows)
        for index in range(len(self.rows)):
            try:
                row = next(rows)
            # pyarrow checks values when they are read, and raises errors of many types.
            except Exception as error:
                raise BadInput(
                    f"{self.where(index)} cannot be read: {first_line(error)}; "
                    "accepted: text and numbers"
                ) from error
            yield row

    def select(self, indices: Sequence[int]) -> "Rows":
        """Choose rows.

        Args:
          indices: of the rows, from 0.
        """
        lines = None if self.lines is None else [self.lines[index] for index in indices]
        places = None if self.places is None else [self.places[index] for index in indices]
        rows = ChosenRows(self.rows, indices)
        return Rows(self.source, self.columns, rows, lines, places)

    def rename(self, names: Mapping[str, str]) -> "Rows":
        """Give fields other names.

        Args:
          names: the field's name -> its new one, which replaces a field of that name.
        """
        kept = [name for name in self.columns if name not in (*names, *names.values())]
        rows = []
        for row in self:
            renamed = {name: row[name] for name in kept if name in row}
            renamed |= {new: row[old] for old, new in names.items() if old in row}
            rows.append(renamed)
        columns = (*kept, *(new for old, new in names.items() if old in self.columns))
        return Rows(self.source, columns, rows, self.lines, self.places)

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
                f"{self.source} has no field {listed(missing)}{note}; "
                f"it has: {listed(self.columns) or 'none'}; accepted: one that it has"
            )

    def require_unicode(self, index: int, field: str, text: str) -> None:
        r"""Check that a text can be tokenized.

        Args:
          index: the row.
          field: the field of the text.
          text: its value.

        Raises:
          BadInput: it has half of a surrogate pair, such as a lone \ud83d in JSON.
        """
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise BadInput(
                f"{self.where(index)}: {field} has {shown(text[error.start])}, half of a character "
                f"in UTF-16, at character {error.start + 1}; accepted: whole characters"
            ) from error


def join_rows(source: str, pieces: Sequence[Rows]) -> Rows:
    """Put rows of several files or sets one after another.

    Args:
      source: the name of them all.
      pieces: at least one; a single one stays as it is.
    """
    if len(pieces) == 1:
        return pieces[0]
    columns = dict.fromkeys(name for piece in pieces for name in piece.columns)
    rows = JoinedRows([piece.rows for piece in pieces])
    places = [piece.where(index) for piece in pieces for index in range(len(piece.rows))]
    return Rows(source, tuple(columns), rows, places=places)


def load_rows(
    source: str,
    *,
    subset: str | None = None,
    split: str = "train",
    limit: int | None = None,
    folder: Path | None = None,
) -> Rows:
    """Load the rows of a data set.

    Args:
      source: a file with one of the known suffixes, a folder of them, a pattern, or a hub name.
      subset: the configuration of a hub set.
      split: the split of a hub set, or of a folder with files of several.
      limit: the number of rows to load, from the first; None for all.
      folder: where rows of json and csv files are kept while they are used; None for memory.

    Returns:
      The rows, at least one.

    Raises:
      BadInput: the source does not exist, is of an unknown kind, cannot be read, or has no rows.
    """
    rows = _load(source, subset, split, limit, folder)
    if not len(rows.rows):
        raise BadInput(f"{source} has no rows; accepted: a data set with at least one")
    return rows


def _load(
    source: str, subset: str | None, split: str, limit: int | None, folder: Path | None
) -> Rows:
    files = local_files(source, split)
    if files is None:
        return _load_table(source, limit, path=source, name=subset, split=split)
    with reading(source):
        pieces: list[Rows] = []
        left = limit
        for file in files:
            if left == 0:
                break
            pieces.append(_load_file(file, left, folder))
            if left is not None:
                left -= len(pieces[-1].rows)
        return join_rows(source, pieces)


def local_files(source: str, split: str) -> list[Path] | None:
    """List the files of a source; None for the name of a set on the hub.

    Args:
      source: as for `load_rows`.
      split: as for `load_rows`.

    Raises:
      BadInput: the source does not exist, or is of an unknown kind.
    """
    try:
        path = Path(source).expanduser()
        mode = _mode(path)
    # A name of a user that does not exist, too long, with a zero byte, or without permission.
    except (OSError, RuntimeError, ValueError) as error:
        raise BadInput(
            f"{shown(source)} cannot be looked up ({reason_of(error)}); accepted: {ACCEPTED}"
        ) from error
    if mode is None and not is_pattern(source):
        if source.endswith(SUFFIXES) or not HUB_NAME.fullmatch(source):
            raise BadInput(f"{listed([source])} does not exist; accepted: {ACCEPTED}")
        return None
    with reading(source):
        if mode is None:
            return matching_files(source)
        return folder_files(path, split) if stat.S_ISDIR(mode) else [path]


@contextlib.contextmanager
def reading(source: str) -> Iterator[None]:
    """Name the source whose files the system cannot read.

    Args:
      source: as for `load_rows`.

    Raises:
      BadInput: a file cannot be read.
    """
    try:
        yield
    except OSError as error:
        raise BadInput(
            f"{source} cannot be read ({reason_of(error)}); accepted: {ACCEPTED}"
        ) from error


def _mode(path: Path) -> int | None:
    """Return the type of a file, behind links; None if nothing is there."""
    try:
        return os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None


def require_regular(path: Path) -> None:
    """Check that a file has an end.

    Args:
      path: of a source.

    Raises:
      BadInput: it is a pipe, which waits for its writer, or a device.
      OSError: it cannot be looked up.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise BadInput(f"{path} is no regular file; accepted: {ACCEPTED}")


def _load_file(path: Path, limit: int | None, folder: Path | None) -> Rows:
    require_regular(path)
    if path.name.endswith(JSON_SUFFIXES):
        # A dict keeps the order of the fields.
        columns: dict[str, None] = {}
        return _numbered_rows(path, columns, _seen(json_rows(path), columns, limit), folder)
    if path.suffix == ".csv":
        fields, numbered = read_csv(path, limit)
        return _numbered_rows(path, dict.fromkeys(fields), numbered, folder)
    if path.suffix == ".parquet":
        _check_parquet(path)
        # `datasets` takes brackets and stars in a path for patterns.
        file = glob.escape(str(path))
        return _load_table(str(path), limit, path="parquet", data_files=file, split="train")
    raise BadInput(f"{path} ends in none of the known suffixes; accepted: {ACCEPTED}")


def _seen(
    numbered: Iterator[tuple[int, Mapping[str, Any]]], columns: dict[str, None], limit: int | None
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Pass on the first rows, and note their fields."""
    for line, row in itertools.islice(numbered, limit):
        columns.update(dict.fromkeys(row))
        yield line, row


def _numbered_rows(
    path: Path,
    columns: Mapping[str, None],
    numbered: Iterable[tuple[int, Mapping[str, Any]]],
    folder: Path | None,
) -> Rows:
    """Read rows to their end, which completes the fields, and keep them."""
    lines = array("q")

    def unnumbered() -> Iterator[Mapping[str, Any]]:
        for line, row in numbered:
            lines.append(line)
            yield row

    rows = list(unnumbered()) if folder is None else FiledRows(folder, unnumbered())
    return Rows(str(path), tuple(columns), rows, lines)


def _check_parquet(path: Path) -> None:
    """Check that a parquet file is whole, and the number of rows before they are unpacked."""
    from pyarrow import parquet

    try:
        rows = parquet.read_metadata(path).num_rows
    # pyarrow raises errors of many types for a broken file.
    except Exception as error:
        raise BadInput(
            f"{path} cannot be loaded: {first_line(error)}; accepted: a whole parquet file"
        ) from error
    most = ROWS_PER_BYTE * path.stat().st_size
    if rows > most:
        raise BadInput(
            f"{path} has {rows:,} rows; accepted: at most {most:,} in a parquet file of its size"
        )


def _load_table(source: str, limit: int | None, **arguments: Any) -> Rows:
    import datasets

    with quiet():
        try:
            table = datasets.load_dataset(**arguments)
            # Images and sound are no text, and reading a row would decode them.
            coded = [name for name, kind in table.features.items() if _is_coded(kind)]
            table = table.remove_columns(coded)
        # `datasets` lets through whatever pyarrow, pandas or the network raise.
        except Exception as error:
            cause = cause_of(error)
            if "corresponds to no data" in str(cause):
                raise BadInput(
                    f"{source} has no rows; accepted: a data set with at least one"
                ) from error
            raise BadInput(
                f"{source} cannot be loaded: {first_line(cause)}; accepted: {ACCEPTED}"
            ) from error
    count = min(limit or len(table), len(table))
    table = table.select(range(count))
    return Rows(source, tuple(table.column_names), table)


def _is_coded(kind: Any) -> bool:
    """True for a type of column whose values `datasets` decodes."""
    return hasattr(kind, "decode_example")


def cause_of(error: BaseException) -> BaseException:
    """Return what an error of `datasets` was raised for: the deepest cause.

    Args:
      error: of `datasets`, which wraps the errors of its readers.
    """
    while error.__cause__ is not None:
        error = error.__cause__
    return error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
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
