r"""Final answers in LaTeX: found in a text, and compared as the paper's code compares them."""

import re

from balora_jax.evaluation.tasks.prompts import first_response

OFFICIAL_MARKER = "The answer is: "
_MARKER = re.compile(r"\bthe (?:final )?answer is\b\s*:?", re.IGNORECASE)
_BOX = re.compile(r"\\f?boxed\b\s*|\\fbox\b\s*")
# The end of a sentence, which a decimal point is not.
_END = re.compile(r"\.(?=\s|$)|\n\s*\n")
_MATH = re.compile(r"\$\$(.+?)\$\$|\$(.+?)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_TEXT = re.compile(r"\\(?:text|textbf|textit|mathrm|mbox|mathbf)\{([^{}]*)\}")
# Texts that make no difference -> their replacements, in this order.
_EQUAL = (
    ("\n", ""),
    ("\\!", ""),
    ("\\\\", "\\"),
    ("tfrac", "frac"),
    ("dfrac", "frac"),
    ("\\left", ""),
    ("\\right", ""),
    ("^{\\circ}", ""),
    ("^\\circ", ""),
    ("\\$", ""),
)


def after_marker(text: str) -> str | None:
    """Return the text after the last "the answer is", with or without a colon.

    Args:
      text: a model's answer.

    Returns:
      The text; None without those words.
    """
    ends = [match.end() for match in _MARKER.finditer(text)]
    return text[ends[-1] :] if ends else None


def boxed(text: str) -> str | None:
    r"""Return the content of the last \boxed{}, whose braces may be nested.

        "\boxed{1}, so \boxed{\frac{1}{2}}."  ->  "\frac{1}{2}"

    Args:
      text: a worked solution.

    Returns:
      The content; None without a complete box.
    """
    for match in reversed(list(_BOX.finditer(text))):
        content = _braced(text, match.end())
        if content is not None:
            return content
    return None


def _braced(text: str, start: int) -> str | None:
    """The content of the braces that open at a place."""
    if text[start : start + 1] != "{":
        # \boxed 5 has the next sign in the box.
        return text[start : start + 1].strip() or None
    depth = 0
    for place in range(start, len(text)):
        if text[place] in "{}" and text[place - 1] != "\\":
            depth += 1 if text[place] == "{" else -1
        if depth == 0:
            return text[start + 1 : place]
    return None


def official_answer(text: str) -> str | None:
    """Return the answer that the official code of PiSSA and BA-LoRA finds.

    It stands between the last "The answer is: " and the end of the line's last sentence.

    Args:
      text: a model's answer.

    Returns:
      The answer; None without those words.
    """
    _, marker, after = text.rpartition(OFFICIAL_MARKER)
    if not marker:
        return None
    return after.partition(".\n")[0].strip().removesuffix(".").strip()


def extract_answer(text: str) -> str | None:
    r"""Return the answer that a text ends with, in any common form.

    It follows the last "the answer is" or stands in the last \boxed{}.

    Args:
      text: a model's answer.

    Returns:
      The answer without dollar signs and a box; None if there is none.
    """
    text = first_response(text)
    after = after_marker(text)
    found = boxed(text) if after is None else _unwrapped(after)
    return found or None


def _unwrapped(text: str) -> str:
    """The first box, formula or sentence of a text."""
    text = text.strip()
    inside = boxed(text)
    if inside is not None:
        return inside.strip()
    formula = _MATH.match(text)
    if formula is not None:
        return next(group for group in formula.groups() if group).strip()
    end = _END.search(text)
    return (text[: end.start()] if end else text).strip().strip("*$").strip()


def same_text(first: str, second: str) -> bool:
    """Return True if two answers are equal as the paper's code compares them.

    They are compared after `normalize`, or as they are if one cannot be normalized.

    Args:
      first: an answer.
      second: an answer.
    """
    try:
        return normalize(first) == normalize(second)
    except ValueError:
        return first == second


def same_words(first: str, second: str) -> bool:
    r"""Return True if two answers are the same words, such as \text{Friday} and friday.

    Args:
      first: an answer.
      second: an answer.
    """
    return _words(first) == _words(second)


def _words(text: str) -> str:
    return " ".join(_TEXT.sub(r"\1", text).split()).casefold()


def normalize(text: str) -> str:
    r"""Write an answer in the form that Hendrycks et al. compare (MATH, arXiv 2103.03874).

        "\dfrac12"  ->  "\frac{1}{2}"        "x = 0.5"  ->  "\frac{1}{2}"

    Sizes of brackets, spaces, degrees, dollar signs, percent signs and units on the right go.

    Args:
      text: an answer.

    Raises:
      ValueError: the rules say nothing of the text: it has two units, or a slash between more than
        whole numbers.
    """
    for before, after in _EQUAL:
        text = text.replace(before, after)
    text = _without_unit(text).replace("\\%", "")
    text = text.replace(" .", " 0.").replace("{.", "{0.")
    if text.startswith("."):
        text = "0" + text
    name, equals, value = text.partition("=")
    if equals and len(name) <= 2 and "=" not in value:
        text = value
    text = re.sub(r"\\sqrt([^{])", r"\\sqrt{\1}", text)
    text = text.replace(" ", "")
    text = re.sub(r"\\frac([^{])([^{])", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\frac([^{]){", r"\\frac{\1}{", text)
    if text == "0.5":
        text = "\\frac{1}{2}"
    return _slash_as_fraction(text)


def _without_unit(text: str) -> str:
    parts = text.split("\\text{ ")
    if len(parts) > 2:
        raise ValueError("two units")
    return parts[0]


def _slash_as_fraction(text: str) -> str:
    if text.count("/") != 1:
        return text
    numerator, _, denominator = text.partition("/")
    if text == f"{int(numerator)}/{int(denominator)}":
        return f"\\frac{{{numerator}}}{{{denominator}}}"
    return text
