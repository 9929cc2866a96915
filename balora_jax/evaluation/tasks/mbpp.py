"""MBPP (Austin et al., arXiv 2108.07732): functions to write from a sentence and three tests."""

import ast
import builtins
from collections.abc import Mapping, Sequence
from typing import Any

from balora_jax.evaluation.tasks.extraction import extract_code, parses
from balora_jax.evaluation.tasks.prompts import alpaca

Doc = Mapping[str, Any]
# Of the set's 974 rows these are the test set.
FIRST = 11
LAST = 510


def rows(docs: Any) -> Any:
    """Return the rows of the test set, also from a file that holds all rows.

    Args:
      docs: a data set of `datasets`.
    """
    return docs.filter(_is_test, input_columns="task_id")


def _is_test(task_id: int) -> bool:
    return FIRST <= task_id <= LAST


def prompt(doc: Doc) -> str:
    """Write the prompt of a row, in WizardCoder's words (Luo et al., arXiv 2306.08568)."""
    tests = "\n".join(doc["test_list"])
    return alpaca(
        f"Create a Python script for this problem:\n{doc['text']}\n"
        f"Your code should pass these tests:\n\n{tests}"
    )


def target(doc: Doc) -> str:
    """Return the tests of a row."""
    return "\n".join([doc["test_setup_code"], *doc["test_list"]])


def score(doc: Doc, answers: Sequence[str]) -> dict[str, float]:
    """Score what can be told of an answer without running it.

    Args:
      doc: the row.
      answers: the model's answer alone.

    Returns:
      parses: 1 if the answer is a program of Python.
    """
    return {"parses": float(parses(solution(doc, answers[0])))}


def solution(doc: Doc, answer: str) -> str:
    """Return the program in an answer, without tests.

    Args:
      doc: the row.
      answer: the model's.
    """
    return extract_code(answer, entry_point(doc["test_list"]))


def entry_point(tests: Sequence[str]) -> str | None:
    """Return the function that tests call; None if it cannot be told.

    Args:
      tests: assertions.
    """
    called = [
        node.func.id
        for node in ast.walk(ast.parse("\n".join(tests)))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    ]
    return next((name for name in called if not hasattr(builtins, name)), None)


def program(doc: Doc, answer: str) -> str:
    """Return the program that tests an answer.

    Args:
      doc: the row.
      answer: the model's.
    """
    return f"{solution(doc, answer)}\n{target(doc)}\n".replace("\r", "")
