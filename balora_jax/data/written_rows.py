"""Rows with predictions, as jsonl or csv."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def as_jsonl(rows: Sequence[Mapping[str, Any]]) -> str:
    """Write rows as lines of JSON; numbers that are not finite become null.

    Args:
      rows: values by the field's name.
    """
    return "".join(json.dumps(_plain(row), ensure_ascii=False) + "\n" for row in rows)


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Write rows as csv, with a column for every field that some row has.

    A mapping of numbers, such as probabilities, has a column for each; lists and other mappings are
    written as JSON.

    Args:
      rows: as for `as_jsonl`.
    """
    flat = [flat_row(row) for row in rows]
    columns = list(dict.fromkeys(name for row in flat for name in row))
    text = io.StringIO()
    # Python's writer leaves a lone \r unquoted, and its reader then takes it for a line's end.
    has_return = any("\r" in str(cell) for row in flat for cell in row.values())
    quoting = csv.QUOTE_ALL if has_return else csv.QUOTE_MINIMAL
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n", quoting=quoting)
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue()


def flat_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Write a row as cells by their columns, as `as_csv` does.

    Args:
      row: values by the field's name.

    Raises:
      ValueError: two of its values would have one column.
    """
    plain = _plain(row)
    cells = _flat(plain)
    parts = sum(len(value) if _is_numbers(value) else 1 for value in plain.values())
    if len(cells) < parts:
        raise ValueError("two fields have one name, such as a.b and b in a")
    return cells


def _is_numbers(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(part, float) for part in value.values())


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    cells = {}
    for name, value in row.items():
        if _is_numbers(value):
            cells |= {f"{name}.{key}": part for key, part in value.items()}
        elif isinstance(value, dict | list):
            cells[name] = json.dumps(value, ensure_ascii=False)
        else:
            cells[name] = "" if value is None else value
    return cells


def _plain(value: Any) -> Any:
    """The value as JSON has it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(part) for part in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    # Dates and bytes of parquet.
    return str(value)
