"""Programs in answers: the lines of Python in a text of a model."""

import ast
import re
import textwrap
import warnings

from balora_jax.evaluation.tasks.prompts import first_response

_FENCE = re.compile(r"^([ \t]*)```[ \t]*(\w*)[^\n]*\n", re.MULTILINE)
_FENCE_END = re.compile(r"^[ \t]*```", re.MULTILINE)
_PYTHON = ("python", "python3", "py", "")
# The first line of a program: a definition, an import or a constant.
_FIRST_LINE = re.compile(
    r"^(?:def |class |async def |import \w|from [\w.]+ import|@\w|[A-Z][A-Z0-9_]* = )", re.MULTILINE
)
# Lines after which a program only tries itself; an assertion of the model's may be wrong.
_TRIAL = re.compile(
    r"^(?:if __name__ ?== ?[\"']__main__[\"']|# ?Example usage|assert\b)", re.MULTILINE
)


def extract_code(text: str, entry_point: str | None = None) -> str:
    """Return the program in an answer.

    It is the first fenced block that defines the entry point, or else the first fenced block; or,
    without a fence, the text from its first line of Python to the last with which it is valid. It
    ends where a program begins to try itself: at __main__, at "# Example usage", or at an assertion
    outside functions.

    Args:
      text: a model's answer.
      entry_point: the function that the tests call; None for any.

    Returns:
      The program; an answer without one is returned as it is.
    """
    text = first_response(text.replace("\r", ""))
    blocks = _fenced(text)
    if blocks:
        code = next((block for block in blocks if defines(block, entry_point)), blocks[0])
    else:
        code = _without_prose(text)
    trial = _TRIAL.search(code)
    return code[: trial.start()].rstrip() + "\n" if trial else code


def _fenced(text: str) -> list[str]:
    """The fenced blocks of Python; one without an end goes to the text's end."""
    blocks = []
    start = _FENCE.search(text)
    while start:
        end = _FENCE_END.search(text, start.end())
        stop = end.start() if end else len(text)
        block = text[start.end() : stop]
        if start[2].lower() in _PYTHON:
            # A fence in a list is indented with its lines.
            blocks.append(textwrap.dedent(block) if start[1] else block)
        start = _FENCE.search(text, end.end()) if end else None
    return blocks


def defines(code: str, entry_point: str | None) -> bool:
    """Return True if a program defines a function outside classes and functions.

    Args:
      code: the program.
      entry_point: the function's name; None for any.
    """
    name = r"\w+" if entry_point is None else re.escape(entry_point)
    return re.search(rf"^(?:async )?def {name}\b", code, re.MULTILINE) is not None


def _without_prose(text: str) -> str:
    """Leave out the text before and after a program."""
    first = _FIRST_LINE.search(text)
    is_body = text.lstrip("\n")[:1].isspace()
    if first is None or is_body or parses(text):
        return text
    lines = text[first.start() :].splitlines(keepends=True)
    for count in range(len(lines), 0, -1):
        code = "".join(lines[:count])
        if parses(code):
            return code
    return "".join(lines)


def parses(code: str) -> bool:
    """Return True if a text is a program of Python; it is not run.

    Args:
      code: the text.
    """
    try:
        with warnings.catch_warnings():
            # Such as those of escapes in texts, which the program's run would show.
            warnings.simplefilter("ignore")
            ast.parse(code)
    # Python's parser gives up so on null bytes and on deep nesting.
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True
