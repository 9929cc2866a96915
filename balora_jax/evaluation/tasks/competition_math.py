"""MATH (Hendrycks et al., arXiv 2103.03874): competition problems whose answers are formulas."""

from collections.abc import Mapping, Sequence
from typing import Any

from balora_jax.errors import BadInput, shown
from balora_jax.evaluation.tasks.equality import are_equal, check_installed
from balora_jax.evaluation.tasks.latex import (
    boxed,
    extract_answer,
    official_answer,
    same_text,
)
from balora_jax.evaluation.tasks.prompts import alpaca


def rows(docs: Any) -> Any:
    """Return the rows as they are, once math-verify is known to be installed.

    Args:
      docs: a data set of `datasets`.

    Raises:
      BadInput: math-verify is not installed.
    """
    check_installed()
    return docs


def prompt(doc: Mapping[str, Any]) -> str:
    """Write the prompt of a row: its field `problem`, or `question`."""
    return alpaca(doc["problem"] if "problem" in doc else doc["question"])


def reference(doc: Mapping[str, Any]) -> str:
    r"""Return the right answer of a row.

    Args:
      doc: with a worked `solution`, or a worked `answer`; or both, where `answer` is the formula.

    Raises:
      BadInput: a worked solution has no \boxed{} answer.
    """
    if "solution" in doc and "answer" in doc:
        return doc["answer"]
    solution = doc["solution"] if "solution" in doc else doc["answer"]
    found = boxed(solution)
    if found is None:
        raise BadInput(
            f"the solution of a row of MATH is {shown(solution)}; "
            "accepted: a solution with its answer in \\boxed{}"
        )
    return found


def score(doc: Mapping[str, Any], answers: Sequence[str]) -> dict[str, float]:
    """Score the answer to a row.

    Args:
      doc: the row.
      answers: the model's answer alone.

    Returns:
      exact_match: 1 if the formula is right as the paper's code compares it; math_verify: 1 if it
      is equal as mathematics, in any form; answered: 1 if the answer has the paper's form.
    """
    expected = reference(doc)
    official = official_answer(answers[0])
    found = extract_answer(answers[0])
    return {
        "exact_match": float(official is not None and same_text(official, expected)),
        "math_verify": float(found is not None and are_equal(expected, found)),
        "answered": float(official is not None),
    }
