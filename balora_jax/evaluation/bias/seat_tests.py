"""SEAT as a measure of evaluations: all tests of a file, or the three of names and gender."""

from collections.abc import Mapping, Sequence
from typing import Any

from balora_jax.evaluation.bias.comparison import Comparison
from balora_jax.evaluation.bias.embeddings import MeanEmbeddings
from balora_jax.evaluation.bias.seat import (
    Association,
    SentenceSets,
    compare_association,
    measure_association,
)
from balora_jax.evaluation.statistics import Interval


def measure_tests(model: Any, tests: Sequence[SentenceSets]) -> list[Association]:
    """Run every test on a model.

    Args:
      model: a `TextClassifier`, or a `LanguageModel`, whose embeddings are means over tokens.
      tests: from `read_sentence_sets`, or DEFAULT.

    Returns:
      The result of each test.
    """
    embedding = model if hasattr(model, "embeddings") else MeanEmbeddings(model)
    return [measure_association(sets, embedding) for sets in tests]


def measures_of_tests(results: Sequence[Association]) -> dict[str, Interval | float]:
    """Return the effect sizes, and the p-values, which have no interval.

    Args:
      results: from `measure_tests`.
    """
    found = {}
    for result in results:
        found |= result.measures
        found[f"{result.test}.p_value"] = result.p_value
    return found


def compare_tests(
    after: Sequence[Association], before: Sequence[Association]
) -> Mapping[str, Comparison]:
    """Compare two models on the same tests.

    Args:
      after: the results of one model.
      before: those of the other.

    Returns:
      The change of each effect size.
    """
    changes = {}
    for now, then in zip(after, before, strict=True):
        changes |= compare_association(now, then)
    return changes
