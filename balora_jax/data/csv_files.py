"""The rows of a csv file, whose first line names the fields.

Cells stay as written: no 007 -> 7, no "None" -> missing. A row of more or fewer cells than the
first line has is refused: readers that fill it up put its values under other fields.
"""

import csv
import itertools
from collections.abc import Iterator
from pathlib import Path

from balora_jax.data.text_files import LONGEST_LINE, text_lines
from balora_jax.errors import BadInput, listed


def read_csv(path: Path, limit: int | None) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Read the fields and the first rows of a file.

    Args:
      path: the file, in UTF-8 with commas between cells.
      limit: the number of rows; None for all.

    Returns:
      The fields, and each row with the line on which it begins.

    Raises:
      BadInput: the file is empty or malformed; the message says where.
    """
    # The limit is a global of the csv module; its default refuses long texts.
    previous = csv.field_size_limit(LONGEST_LINE)
    try:
        numbered = _numbered_cells(path)
        _, fields = next(numbered, (0, []))
        _check_fields(path, fields)
        rows = _rows(path, fields, numbered)
        return fields, list(itertools.islice(rows, limit))
    finally:
        csv.field_size_limit(previous)


def _numbered_cells(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the first line of each row with its cells: cells may have line breaks."""
    reader = csv.reader(_lines_without_nul(path), strict=True)
    end = 0
    try:
        for cells in reader:
            # Blank lines are no rows.
            if cells:
                yield end + 1, cells
            end = reader.line_num
    except csv.Error as error:
        raise BadInput(
            f"{path}, line {end + 1} is not CSV: {error}; accepted: cells with commas between, "
            'and with every quote in quotes doubled ("")'
        ) from error


def _lines_without_nul(path: Path) -> Iterator[str]:
    for number, line in enumerate(text_lines(path), start=1):
        if "\0" in line:
            raise BadInput(f"{path}, line {number} has a zero byte; accepted: a csv file in UTF-8")
        yield line


def _check_fields(path: Path, fields: list[str]) -> None:
    accepted = "accepted: a csv file whose first line names its fields"
    if not fields:
        raise BadInput(f"{path} is empty; {accepted}")
    repeated = [field for field in dict.fromkeys(fields) if fields.count(field) > 1]
    if repeated:
        raise BadInput(f"{path} names the field {listed(repeated)} twice; {accepted}, each once")


def _rows(
    path: Path, fields: list[str], numbered: Iterator[tuple[int, list[str]]]
) -> Iterator[tuple[int, dict[str, str]]]:
    for line, cells in numbered:
        is_blank = len(cells) == 1 and not cells[0].strip()
        if len(fields) > 1 and is_blank:
            continue
        if len(cells) != len(fields):
            raise BadInput(
                f"{path}, line {line} has {len(cells)} cells; accepted: {len(fields)}, as in the "
                "first line"
            )
        yield line, dict(zip(fields, cells, strict=True))
