"""The change of a measure between two models that were asked the same items."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from balora_jax.evaluation.statistics import Interval, mcnemar, paired_difference


@dataclass(frozen=True)
class Comparison:
    """The change of a measure from one model to another, such as from the base to an adapter.

    Attributes:
      difference: the measure after minus before, with its paired bootstrap interval.
      p_value: of McNemar's exact test; None where the items are not yes or no.
    """

    difference: Interval
    p_value: float | None = None


def compare_items(
    after: np.ndarray, before: np.ndarray, groups: np.ndarray | None = None
) -> Comparison:
    """Compare the mean of items between two models.

    Args:
      after: [items], of one model; bool for yes or no.
      before: [items], of the other.
      groups: [items], the groups that are resampled together; None where items are independent.

    Returns:
      The change of the mean; of bool items also McNemar's p-value.
    """
    binary = after.dtype == bool and before.dtype == bool
    difference = paired_difference(after, before, groups=groups)
    return Comparison(difference, mcnemar(after, before) if binary else None)


def check_same(after: Sequence[object], before: Sequence[object]) -> None:
    """Check that two models were asked the same items, in the same order.

    Args:
      after: the items of one model.
      before: those of the other.

    Raises:
      ValueError: they differ.
    """
    if list(after) != list(before):
        raise ValueError(
            f"{len(after)} and {len(before)} items that are not the same; accepted: the results "
            "of two models on the same items"
        )
