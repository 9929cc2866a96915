"""Docstrings for Sphinx: what stands indented is code, and single backticks are code, too.

The docstrings are written to be read in an editor: formulas stand indented, without a mark before
them, and |Z| or A * B mean what they say. Sphinx would read markup there.
"""

import re
from collections.abc import Iterator
from typing import Any

from sphinx.application import Sphinx

HEADING = re.compile(r"\s*(Args|Attributes|Raises|Returns|Yields):\s*")
RESULTS = ("Returns", "Yields")
# From here on a line is no continuation of a list's item, but a formula or an example.
CODE_INDENTATION = 4
CODE = re.compile(r"(`[^`]+`)")
# The dot is one after a single letter, which would begin a list.
MARKUP = re.compile(r"([*|\\]|(?<=\w)_(?!\w)|(?<=\b[A-Za-z])\.(?!\w))")


def as_restructured_text(lines: list[str]) -> Iterator[str]:
    """Rewrite the lines of a docstring, before napoleon reads its sections."""
    code = None
    previous = ""
    last_text = ""
    for line in lines:
        indentation = len(line) - len(line.lstrip())
        if line.strip() and code is not None and indentation < code:
            code = None
        begins = not previous.strip() and last_text and not HEADING.fullmatch(last_text)
        depth = indentation - (len(last_text) - len(last_text.lstrip()))
        if line.strip() and code is None and begins and depth >= CODE_INDENTATION:
            code = indentation
            yield " " * (indentation - depth) + "::"
            yield ""
        yield line if code is not None else _text(line, last_text)
        previous = line
        if line.strip() and code is None:
            last_text = line


def _text(line: str, last_text: str) -> str:
    """A line that is no code; napoleon takes what is before a colon in a result for its type."""
    parts = CODE.split(line)
    parts[::2] = [MARKUP.sub(r"\\\1", part) for part in parts[::2]]
    parts[1::2] = [f"`{part}`" for part in parts[1::2]]
    text = "".join(parts)
    heading = HEADING.fullmatch(last_text)
    if line.strip() and heading and heading[1] in RESULTS:
        margin = len(text) - len(text.lstrip())
        return f"{text[:margin]}: {text[margin:]}"
    return text


def rewrite(app: Sphinx, what: str, name: str, found: Any, options: Any, lines: list[str]) -> None:
    """Rewrite a docstring in place."""
    lines[:] = as_restructured_text(list(lines))


def skip(app: Sphinx, what: str, name: str, found: Any, skipped: bool, options: Any) -> bool:
    """Leave out the fields of a NamedTuple, which its docstring describes."""
    return skipped or (getattr(found, "__doc__", None) or "").startswith("Alias for field number")


def setup(app: Sphinx) -> dict[str, bool]:
    """Come before napoleon, whose priority is 500."""
    app.connect("autodoc-process-docstring", rewrite, priority=400)
    app.connect("autodoc-skip-member", skip)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
