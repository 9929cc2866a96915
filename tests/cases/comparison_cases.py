"""A check of comparisons: each change is the measure of one model minus that of the other."""

from collections.abc import Mapping

import numpy as np
import pytest

from balora_jax.evaluation.bias.comparison import Comparison
from balora_jax.evaluation.statistics import Interval


def check_changes(
    changes: Mapping[str, Comparison], after: Mapping[str, Interval], before: Mapping[str, Interval]
) -> None:
    """Check the changes that have the names of measures; there must be some."""
    common = set(changes) & set(after)
    assert common
    for name in common:
        change = changes[name].difference
        assert change.value == pytest.approx(after[name].value - before[name].value), name
        # Equal items have no interval.
        assert change.low <= change.high or np.isnan(change.low), name
