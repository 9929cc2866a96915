"""HumanEval (Chen et al., arXiv 2107.03374): functions to write from a signature and docstring."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from balora_jax.evaluation.tasks.extraction import defines, extract_code, parses
from balora_jax.evaluation.tasks.prompts import alpaca

Doc = Mapping[str, Any]
INDENTATION = "    "


def prompt(doc: Doc) -> str:
    """Write the prompt of a row, in WizardCoder's words (Luo et al., arXiv 2306.08568)."""
    return alpaca(f"Create a Python script for this problem:\n{doc['prompt'].strip()}")


def target(doc: Doc) -> str:
    """Return the tests of a row."""
    return f"{doc['test']}\ncheck({doc['entry_point']})"


def score(doc: Doc, answers: Sequence[str]) -> dict[str, float]:
    """Score what can be told of an answer without running it.

    Args:
      doc: the row.
      answers: the model's answer alone.

    Returns:
      parses: 1 if the answer makes a program of Python.
    """
    return {"parses": float(parses(solution(doc, answers[0])))}


def solution(doc: Doc, answer: str) -> str:
    """Return the program that an answer makes, without tests.

    The row's prompt stands in front, for its imports and helpers. A function of the entry point's
    name in the answer replaces the prompt's, which has no body; otherwise the answer is the body.

    Args:
      doc: the row.
      answer: the model's.
    """
    start = doc["prompt"]
    code = extract_code(answer, doc["entry_point"])
    if defines(code, doc["entry_point"]):
        return f"{start.rstrip()}\n\n\n{code}"
    bodies = [start + body for body in _bodies(code)]
    return next((whole for whole in bodies if parses(whole)), start + code)


def _bodies(code: str) -> list[str]:
    """The bodies that a continuation of a signature can mean; the first valid one counts."""
    code = code.strip("\n")
    if not code.strip():
        return []
    if code[0].isspace():
        return [_before_unindented(code)]
    # All lines have lost their indentation, or the first one has.
    return [textwrap.indent(code, INDENTATION) + "\n", _before_unindented(INDENTATION + code)]


def _before_unindented(code: str) -> str:
    """The lines before the first that does not belong to a body."""
    lines = code.splitlines()
    inside = [line[:1].isspace() or not line for line in lines]
    count = inside.index(False) if False in inside else len(lines)
    return "\n".join(lines[:count]) + "\n"


def program(doc: Doc, answer: str) -> str:
    """Return the program that tests an answer.

    Args:
      doc: the row.
      answer: the model's.
    """
    return f"{solution(doc, answer)}\n{doc['test']}\n\ncheck({doc['entry_point']})\n"
