"""The rows of a file of JSON: one object a line, or one list of objects.

JSON is read here and not by `datasets`, whose reader names no line in its errors, stops at a blank
line beside mixed types, and fails where a late row's type differs.
"""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from balora_jax.data.text_files import text_lines
from balora_jax.errors import BadInput, shown

# Characters of a list of objects, which is held as a whole.
LARGEST_LIST = 2**30


def json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Read the rows of a file one by one.

    Args:
      path: a file of one object a line; if it ends in .json or .json.gz, or one list of objects.

    Yields:
      Each row with its line; of a list, with the item's number.

    Raises:
      BadInput: the file is not JSON in UTF-8, or a row is no object; the message says where.
    """
    may_be_list = path.name.endswith((".json", ".json.gz"))
    longest = LARGEST_LIST if may_be_list else None
    lines = enumerate(text_lines(path, longest), start=1)
    filled = ((number, line) for number, line in lines if line.strip())
    first = next(filled, None)
    if first is None:
        return
    number, line = first
    if may_be_list and line.lstrip().startswith("["):
        text = _whole(path, itertools.chain([line], (line for _, line in lines)))
        for item, row in enumerate(_parse(path, number, text), start=1):
            yield item, _require_object(row, f"{path}, item {item}")
        return
    for number, line in itertools.chain([first], filled):
        row = _parse(path, number, line.rstrip())
        yield number, _require_object(row, f"{path}, line {number}")


def _whole(path: Path, lines: Iterator[str]) -> str:
    parts = []
    size = 0
    for line in lines:
        parts.append(line)
        size += len(line)
        if size > LARGEST_LIST:
            raise BadInput(
                f"{path} is a list of more than {LARGEST_LIST:,} characters; accepted: "
                "one object a line in a .jsonl file"
            )
    return "".join(parts)


def _parse(path: Path, line: int, text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        at = f"line {line + error.lineno - 1}, column {error.colno}"
        raise BadInput(f"{path}, {at} is not JSON: {error.msg}; accepted: JSON objects") from error
    except RecursionError as error:
        raise BadInput(
            f"{path}, line {line} has too many brackets inside each other; accepted: "
            '{"field": value, ...}'
        ) from error
    except _RepeatedName as error:
        raise BadInput(
            f"{path}, line {line}: an object has the field {error} twice; accepted: each field once"
        ) from error
    # Python reads no integers of more digits.
    except ValueError as error:
        raise BadInput(
            f"{path}, line {line} has a number of more than 4,300 digits; accepted: shorter "
            "numbers, or text in quotes"
        ) from error


class _RepeatedName(ValueError):
    """A name that an object has twice."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of its (name, value) pairs, each name once."""
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        raise _RepeatedName(shown(next(name for name in names if names.count(name) > 1)))
    return made


def _require_object(row: Any, where: str) -> dict[str, Any]:
    if isinstance(row, dict):
        return row
    raise BadInput(
        f'{where} is not an object but {type(row).__name__}; accepted: {{"field": value, ...}}'
    )
