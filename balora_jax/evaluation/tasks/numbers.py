"""Numbers in answers: as the paper's code reads them, and in all the forms that models write."""

import re
from collections.abc import Iterator
from fractions import Fraction

from balora_jax.evaluation.tasks.latex import after_marker, boxed
from balora_jax.evaluation.tasks.prompts import first_response

OFFICIAL_MARKER = "The answer is: "
_OFFICIAL = re.compile(r"[+-]?(?:\d*[.,/])?\d+")
# A number of more digits is none that a question asks for.
MOST_DIGITS = 300
MOST_EXPONENT = 400

_DECIMAL = r"(?:(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)"
_NUMBER = re.compile(
    rf"""
    (?<![0-9A-Za-z_]) (?<![0-9]\.)
    (?P<sign>(?<![)\]}}])[+-])?
    (?: (?P<whole>[0-9]+)[ ]+(?P<part>[0-9]+)/(?P<parts>[0-9]+)         # 3 1/2
      | (?P<first>{_DECIMAL})
        (?: \s?/\s? (?P<second>{_DECIMAL})                               # 7/2
          | \s? (?:\\times|\\cdot|[×*]) \s? 10 \s? \^ \{{? (?P<ten>[+-]?[0-9]+)   # 7 × 10^2
          | [eE] (?P<e>[+-]?[0-9]+) (?![0-9A-Za-z])                      # 7e2
          | \s? \^ \s? \{{? (?P<power>[0-9]+)                            # 7^2
        )?
    )
    """,
    re.VERBOSE,
)
_FRACTION = re.compile(
    r"\\[dtc]?frac\s*(?:\{\s*([^{}]*?)\s*\}|([0-9]))\s*(?:\{\s*([^{}]*?)\s*\}|([0-9]))"
)


def official_number(text: str) -> int | None:
    """Read the answer as the official code of PiSSA and BA-LoRA does.

    It is the first number after the last "The answer is: ", rounded to a whole number (halves to
    the even one). A comma or a slash may stand in it once: 1,234,567 is read as 1234.

    Args:
      text: a model's answer.

    Returns:
      The number; None where the text is not in that form.
    """
    _, marker, after = text.rpartition(OFFICIAL_MARKER)
    match = _OFFICIAL.search(after) if marker else None
    if match is None:
        return None
    numerator, slash, denominator = match[0].replace(",", "").partition("/")
    try:
        if not slash or denominator == "0":
            return round(float(numerator))
        return round(int(numerator) / int(denominator))
    except (ValueError, OverflowError, ZeroDivisionError):
        return None


def extract_number(text: str) -> Fraction | None:
    r"""Read the number that an answer ends with, in any common form.

    It is the first number after the last "the answer is", with or without a colon, or in the last
    \boxed{}, or after the last ####. In a text with none of them it is the last number.

    Args:
      text: a model's answer.

    Returns:
      The number, exactly; None if there is none.
    """
    text = first_response(text)
    _, hashes, after_hashes = text.rpartition("####")
    spans = [after_marker(text), boxed(text), after_hashes if hashes else None]
    explicit = [span for span in spans if span is not None]
    for span in explicit:
        number = next(_numbers(span), None)
        if number is not None:
            return number
    if explicit:
        return None
    return next(reversed(list(_numbers(text))), None)


def _numbers(text: str) -> Iterator[Fraction]:
    """The numbers in a text, in order."""
    for match in _NUMBER.finditer(_plain(text)):
        number = _value(match)
        if number is not None:
            yield -number if match["sign"] == "-" else number


def _plain(text: str) -> str:
    """Write the numbers of a text with LaTeX and currencies in plain signs."""
    text = re.sub("[−–‐‑]", "-", text)
    text = text.replace("{,}", ",").replace("\\!", "").replace("\\%", "%")
    # Spaces that separate thousands.
    text = re.sub(r"(?<=[0-9])(?:\\,|[\u00a0\u2009\u202f])(?=[0-9]{3})", "", text)
    text = re.sub(r"([+-])\s?\\?[$€£]", r" \1", text)
    text = re.sub(r"\\?[$€£]", " ", text)
    text = re.sub(r"(?<=[0-9])\\([dtc]?frac)", r" \\\1", text)
    return _FRACTION.sub(_with_slash, text)


def _with_slash(match: re.Match) -> str:
    numerator = match[1] or match[2] or ""
    denominator = match[3] or match[4] or ""
    return f"{numerator}/{denominator}"


def _value(match: re.Match) -> Fraction | None:
    """The absolute value of a number; None if it is out of bounds."""
    if sum(character.isdigit() for character in match[0]) > MOST_DIGITS:
        return None
    if match["whole"]:
        part = _ratio(Fraction(match["part"]), Fraction(match["parts"]))
        return None if part is None else int(match["whole"]) + part
    first = _decimal(match["first"])
    exponent = match["ten"] or match["e"] or match["power"]
    if match["second"]:
        return _ratio(first, _decimal(match["second"]))
    if not exponent:
        return first
    if abs(int(exponent)) > MOST_EXPONENT:
        return None
    if match["power"]:
        return first ** int(exponent)
    return first * Fraction(10) ** int(exponent)


def _decimal(text: str) -> Fraction:
    return Fraction(text.replace(",", ""))


def _ratio(numerator: Fraction, denominator: Fraction) -> Fraction | None:
    return numerator / denominator if denominator else None
