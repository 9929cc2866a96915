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
    flat = [_flat(_plain(row)) for row in rows]
    columns = list(dict.fromkeys(name for row in flat for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue()


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    cells = {}
    for name, value in row.items():
        if isinstance(value, dict) and all(isinstance(part, float) for part in value.values()):
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
