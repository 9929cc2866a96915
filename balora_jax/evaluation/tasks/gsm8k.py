"""GSM8K (Cobbe et al., arXiv 2110.14168): word problems whose answers are numbers."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from balora_jax.errors import BadInput, shown
from balora_jax.evaluation.tasks.numbers import extract_number, official_number
from balora_jax.evaluation.tasks.prompts import alpaca


def prompt(doc: Mapping[str, Any]) -> str:
    """Write the prompt of a row."""
    return alpaca(doc["question"])


def target(doc: Mapping[str, Any]) -> str:
    """Return the right number of a row as text."""
    return str(reference_number(doc["answer"]))


def reference_number(solution: str) -> Fraction:
    """Return the number of a worked solution, which follows ####.

    Args:
      solution: the field `answer`.

    Raises:
      BadInput: it has no such number.
    """
    _, marker, after = solution.rpartition("####")
    number = extract_number(f"#### {after}") if marker else None
    if number is None:
        raise BadInput(
            f"the field answer of a row of GSM8K is {shown(solution)}; "
            'accepted: a solution that ends with "#### " and a number'
        )
    return number


def score(doc: Mapping[str, Any], answers: Sequence[str]) -> dict[str, float]:
    """Score the answer to a row.

    Args:
      doc: the row.
      answers: the model's answer alone.

    Returns:
      exact_match: 1 if the number is right as the paper's code reads it; flexible_match: 1 if it is
      right in any form; answered: 1 if the answer has the paper's form.
    """
    reference = reference_number(doc["answer"])
    official = official_number(answers[0])
    return {
        "exact_match": float(official is not None and float(official) == float(reference)),
        "flexible_match": float(extract_number(answers[0]) == reference),
        "answered": float(official is not None),
    }
