"""The exceptions that end a command with a message."""

import re

# What operating systems say when a file cannot be written, within the long messages of libraries.
SYSTEM_REASONS = re.compile(
    "No space left on device|Disk quota exceeded|File too large|Read-only file system|"
    "Input/output error|Permission denied"
)


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


class Diverged(RuntimeError):
    """A loss that is not finite; the message names the step and the parts of the loss."""


class OutputError(RuntimeError):
    """Output that could not be written; the message says what is whole and how to go on.

    The command line prints the message and exits with code 1: the input was not at fault.
    """
