"""The exceptions that end a command with a message, and values as their messages show them."""

import re
import reprlib
from collections.abc import Iterable
from typing import Any

# What operating systems say when a file cannot be written, within the long messages of libraries.
SYSTEM_REASONS = re.compile(
    "No space left on device|Disk quota exceeded|File too large|Read-only file system|"
    "Input/output error|Permission denied"
)
# XLA's name for memory that a device lacks, within the messages of its exceptions.
DEVICE_MEMORY = "RESOURCE_EXHAUSTED"
# Of a longer list of names, messages show the first ones.
MOST_NAMES = 12
# Above it Python refuses to write a number's digits.
LARGEST = 10**30
# Of a value inside values.
MOST_CHARACTERS = 160
_SHORT = reprlib.Repr()
_SHORT.maxstring = 80
_SHORT.maxother = 80


class BadInput(ValueError):
    """Input that cannot be used; one sentence names it, its place, and the accepted values.

    The command line prints the sentence and exits with code 2. Nothing has been written by then.
    """


def reason_of(error: BaseException) -> str:
    """An exception's type and message on one line, of at most 300 characters."""
    try:
        message = str(error)
    except Exception:  # a message that cannot be made is no reason to fail
        message = ""
    line = " ".join(f"{type(error).__name__}: {message}".split()).rstrip(":")
    return line if len(line) <= 300 else f"{line[:300]} ..."


def system_reason(error: BaseException) -> str:
    """The operating system's own words in an exception's message, or its type and message."""
    found = SYSTEM_REASONS.search(str(error))
    return found[0] if found else reason_of(error)


def is_out_of_device_memory(error: BaseException) -> bool:
    """Return True for an exception of XLA about memory that a device lacks."""
    return DEVICE_MEMORY in str(error)


class Diverged(RuntimeError):
    """A loss that is not finite; the message names the step and the parts of the loss."""


class OutputError(RuntimeError):
    """Output that could not be written; the message says what is whole and how to go on.

    The command line prints the message and exits with code 1: the input was not at fault.
    """


def shown(value: Any) -> str:
    """Write a value as Python does, shortened.

    Args:
      value: what a file holds.
    """
    if isinstance(value, int) and abs(value) > LARGEST:
        return "a number of more than 30 digits"
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
