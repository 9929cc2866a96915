"""Values and names from a model's files as messages show them: on one line, and short."""

import reprlib
from collections.abc import Iterable
from typing import Any

# Of a longer list of names, the first ones are shown.
MOST_NAMES = 12
MOST_CHARACTERS = 160
_SHORT = reprlib.Repr()
_SHORT.maxstring = 80
_SHORT.maxother = 80


def shown(value: Any) -> str:
    """Write a value as Python does, shortened.

    Args:
      value: what a file holds.
    """
    if isinstance(value, int) and abs(value) > 10**30:
        return "a number of more than 30 digits"
    text = _SHORT.repr(value)
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]}..."


def listed(names: Iterable[str]) -> str:
    """List names with commas; those that are long or not printable are written as by `shown`.

    Args:
      names: what a file holds.
    """
    names = list(names)
    parts = [_name(name) for name in names[:MOST_NAMES]]
    if len(names) > MOST_NAMES:
        parts.append(f"and {len(names) - MOST_NAMES:,} more")
    return ", ".join(parts)


def _name(name: str) -> str:
    is_plain = name.isprintable() and len(name) <= MOST_CHARACTERS
    return name if is_plain else shown(name)
