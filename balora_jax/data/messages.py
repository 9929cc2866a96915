"""Values and names of a data file as messages show them: on one line, and short."""

import reprlib
from collections.abc import Iterable
from typing import Any

# Of a longer list of names, the first ones are shown.
MOST_NAMES = 20
# Of a value inside values.
MOST_CHARACTERS = 160
_SHORT = reprlib.Repr()
_SHORT.maxstring = 80
_SHORT.maxother = 80


def shown(value: Any) -> str:
    """Write a value as Python does, shortened.

    Args:
      value: what a file holds.
    """
    text = _SHORT.repr(value)
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]}..."


def listed(names: Iterable[str]) -> str:
    """List names with commas; those that are long or not printable are written as by `shown`.

    Args:
      names: what a file or a configuration holds.
    """
    names = list(names)
    parts = [_name(name) for name in names[:MOST_NAMES]]
    if len(names) > MOST_NAMES:
        parts.append(f"and {len(names) - MOST_NAMES:,} more")
    return ", ".join(parts)


def first_line(error: BaseException | None) -> str:
    """Return the first line of an error's message without the full stop, shortened.

    Args:
      error: the exception of another library.
    """
    lines = str(error).strip().splitlines() or [type(error).__name__]
    line = "".join(character if character.isprintable() else " " for character in lines[0])
    return f"{line[:300]} ..." if len(line) > 300 else line.rstrip(". ")


def _name(name: Any) -> str:
    is_plain = isinstance(name, str) and name.isprintable() and len(name) <= 80
    return name if is_plain else shown(name)
