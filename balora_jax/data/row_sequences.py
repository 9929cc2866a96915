"""Rows that are not held in memory: in a file, of several sets, or a choice of others."""

import itertools
import json
import tempfile
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Row = Mapping[str, Any]


class FiledRows(Sequence[Row]):
    """Rows of JSON values or text in a temporary file, which ends with the object."""

    def __init__(self, folder: Path, rows: Iterable[Row]) -> None:
        """Write rows to the file.

        Args:
          folder: where the file is.
          rows: of what JSON holds.
        """
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        lengths = array("q", [0])
        for row in rows:
            lengths.append(self._file.write(json.dumps(row).encode() + b"\n"))
        self._starts = np.cumsum(lengths)

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, index: int) -> Row:
        """Read a row."""
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        self._file.seek(self._starts[index])
        return json.loads(self._file.readline())


class JoinedRows(Sequence[Row]):
    """Rows of several sets, one after another."""

    def __init__(self, pieces: Sequence[Sequence[Row]]) -> None:
        """Join sets.

        Args:
          pieces: the rows of each.
        """
        self._pieces = pieces
        self._ends = list(itertools.accumulate(len(piece) for piece in pieces))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Row:
        """Return a row of the set that has it."""
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        place = bisect_right(self._ends, index)
        first = self._ends[place - 1] if place else 0
        return self._pieces[place][index - first]

    def __iter__(self) -> Iterator[Row]:
        return itertools.chain.from_iterable(self._pieces)


class ChosenRows(Sequence[Row]):
    """Some rows of a set."""

    def __init__(self, rows: Sequence[Row], indices: Sequence[int]) -> None:
        """Choose rows.

        Args:
          rows: of the set.
          indices: of those that are chosen.
        """
        self._rows = rows
        self._indices = indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Row:
        """Return a chosen row."""
        return self._rows[self._indices[index]]
