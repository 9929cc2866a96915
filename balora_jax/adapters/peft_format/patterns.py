"""Regular expressions of a file that is not trusted, matched within a limited time."""

import functools
import pathlib
import re
import time
from collections.abc import Callable

import regex

from balora_jax.errors import BadInput, reason_of, shown

# A name to the match of its start, or None.
Match = Callable[[str], regex.Match | None]
# Seconds to match all patterns of a file; some take longer than the universe exists.
LONGEST = 10.0
# Characters of a pattern, times its counted repetitions: compiled patterns grow with both.
LARGEST = 100_000
COUNTED = re.compile(r"\{(\d*)(?:,(\d*))?\}")
# Groups beyond those of Python's own module re may call themselves.
UNKNOWN_GROUP = re.compile(r"\(\?(?![:=!#i]|<[=!]|P[<=])")
PLAIN = re.compile(r"[\w.]+")


class Patterns:
    """The patterns of one file, which have a limited time together."""

    def __init__(self, path: pathlib.Path) -> None:
        """Start the time.

        Args:
          path: the file, for messages.
        """
        self._path = path
        self._end = time.monotonic() + LONGEST

    def compiled(self, option: str, pattern: str, form: str = "{}") -> Match:
        """Compile a pattern.

        Args:
          option: the option that has the pattern, for messages.
          pattern: the regular expression.
          form: the regular expression that the pattern is put into.

        Returns:
          The function that matches it. It raises BadInput if the patterns take too long.

        Raises:
          BadInput: it is no regular expression or too large, or the patterns take too long.
        """
        self._seconds_left(option)
        if len(pattern) * _repetitions(pattern) > LARGEST:
            raise BadInput(
                f"{self._path}: {option} has the regular expression {shown(pattern)}, which is too "
                f"large; accepted: at most {LARGEST} characters times counted repetitions"
            )
        if "{" in COUNTED.sub("", pattern) or UNKNOWN_GROUP.search(pattern):
            raise BadInput(
                f"{self._path}: {option} has {shown(pattern)}, with a brace without a count or a "
                "group of an unknown kind; accepted: names of layers, or regular expressions"
            )
        try:
            expression = regex.compile(form.format(pattern))
        except (regex.error, RecursionError) as error:
            raise BadInput(
                f"{self._path}: {option} has {shown(pattern)}, which is no regular expression "
                f"({reason_of(error)}); accepted: names of layers, or regular expressions"
            ) from error
        literal = pattern.rpartition(".")[2] if PLAIN.fullmatch(pattern) else ""
        return functools.partial(self._match, option, expression, literal)

    def _match(
        self, option: str, expression: regex.Pattern, literal: str, name: str
    ) -> regex.Match | None:
        """The match of the start of a name, which must have the literal in it."""
        if literal not in name:
            return None
        try:
            return expression.match(name, timeout=self._seconds_left(option))
        except TimeoutError as error:
            raise self._too_slow(option) from error

    def _seconds_left(self, option: str) -> float:
        seconds = self._end - time.monotonic()
        if seconds <= 0:
            raise self._too_slow(option)
        return seconds

    def _too_slow(self, option: str) -> BadInput:
        return BadInput(
            f"{self._path}: {option} and the patterns before it take more than {LONGEST:g} s to "
            "match the names of the model's layers; accepted: fewer or simpler regular "
            "expressions, without nested repetitions"
        )


def _repetitions(pattern: str) -> int:
    """The product of the counts of a pattern, as if they were nested; at most beyond the limit."""
    product = 1
    for counts in COUNTED.findall(pattern):
        # Longer counts are beyond the limit as well.
        largest = max(int(count[:9] or 1) for count in counts)
        product = min(product * max(largest, 1), LARGEST + 1)
    return product
