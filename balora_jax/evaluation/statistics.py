"""Intervals and tests over the items of an evaluation."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

DRAWS = 2000
LEVEL = 0.95
# Numbers of a block of resampled items in memory at once.
BLOCK = 2**22


@dataclass(frozen=True)
class Interval:
    """A value with its bootstrap interval.

    Attributes:
      value: of all items.
      low: the interval's lower end; NaN where the items give no interval.
      high: its upper end; NaN likewise.
      items: the items, or groups of items, that the interval is over.
      level: the share of such intervals that hold the true value.
    """

    value: float
    low: float
    high: float
    items: int
    level: float = LEVEL

    def text(self, *, sign: bool = False) -> str:
        """Write the value with three decimals, and the interval behind it if there is one.

        Args:
          sign: whether a + stands before numbers above 0.
        """
        form = "+.3f" if sign else ".3f"
        value, low, high = (format(x, form) for x in (self.value, self.low, self.high))
        return value if math.isnan(self.low) else f"{value} ({low} to {high})"


def bootstrap_mean(
    values: np.ndarray,
    *,
    groups: np.ndarray | None = None,
    seed: int = 0,
    draws: int = DRAWS,
    level: float = LEVEL,
) -> Interval:
    """Compute the mean of items with its percentile bootstrap interval.

    Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.

    Args:
      values: [items]; at least one.
      groups: [items], the group of each item, such as the template that sentences are made of.
        Items of one group are alike, and are resampled together: the interval is over groups. None
        where items are independent.
      seed: of the draws.
      draws: the number of resamplings.
      level: of the interval.

    Returns:
      The mean and its interval. Where all items are equal, resamplings are too: of truth values
      the interval is Wilson's, and of others there is none. Of one item or group there is none.

    Raises:
      ValueError: there is no item.
    """
    is_share = np.asarray(values).dtype == bool
    values = np.asarray(values, np.float64)
    if not len(values):
        raise ValueError("no items; accepted: at least one")
    sums = values
    counts = np.ones(len(values))
    if groups is not None:
        indices = np.unique(groups, return_inverse=True)[1]
        sums = np.bincount(indices, weights=values)
        counts = np.bincount(indices)
    if np.ptp(values) == 0 and is_share:
        return _wilson(float(values[0]), len(sums), level)
    if np.ptp(values) == 0 or len(sums) == 1:
        return Interval(float(values.mean()), math.nan, math.nan, len(sums), level)
    generator = np.random.default_rng(seed)
    rows = max(1, BLOCK // len(sums))
    means = []
    for start in range(0, draws, rows):
        size = (min(rows, draws - start), len(sums))
        drawn = generator.integers(len(sums), size=size)
        means.append(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1))
    return _interval(float(values.mean()), np.concatenate(means), len(sums), level)


def bootstrap(
    statistic: Callable[..., float],
    *arrays: np.ndarray,
    groups: np.ndarray | None = None,
    seed: int = 0,
    draws: int = DRAWS,
    level: float = LEVEL,
) -> Interval:
    """Compute a statistic of items with its percentile bootstrap interval.

    Args:
      statistic: arrays -> a number.
      *arrays: each [items, ...]; resampled together along the first axis.
      groups: [items], as for `bootstrap_mean`.
      seed: of the draws.
      draws: the number of resamplings.
      level: of the interval.

    Returns:
      The statistic and its interval; resamplings whose statistic is not finite are left out. Of
      one item or group there is no interval.

    Raises:
      ValueError: there is no item, or the arrays have different numbers of items.
    """
    arrays = tuple(np.asarray(array) for array in arrays)
    count = len(arrays[0])
    if not count or any(len(array) != count for array in arrays):
        raise ValueError(f"{[len(array) for array in arrays]} items; accepted: as many in each")
    units = np.arange(count) if groups is None else np.unique(groups, return_inverse=True)[1]
    members = np.split(np.argsort(units, kind="stable"), np.cumsum(np.bincount(units))[:-1])
    if len(members) == 1:
        return Interval(float(statistic(*arrays)), math.nan, math.nan, 1, level)
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(draws):
        drawn = generator.integers(len(members), size=len(members))
        if groups is not None:
            drawn = np.concatenate([members[unit] for unit in drawn])
        found.append(statistic(*(array[drawn] for array in arrays)))
    return _interval(float(statistic(*arrays)), np.array(found), len(members), level)


def paired_difference(
    after: np.ndarray,
    before: np.ndarray,
    *,
    groups: np.ndarray | None = None,
    seed: int = 0,
    draws: int = DRAWS,
    level: float = LEVEL,
) -> Interval:
    """Compute the mean difference over the same items with its paired bootstrap interval.

    Args:
      after: [items], of one model.
      before: [items], of the other.
      groups: [items], as for `bootstrap_mean`.
      seed: of the draws.
      draws: the number of resamplings.
      level: of the interval.

    Returns:
      The mean of `after` minus `before`, and its interval.

    Raises:
      ValueError: the numbers of items differ, or there is none.
    """
    after = np.asarray(after, np.float64)
    before = np.asarray(before, np.float64)
    if after.shape != before.shape:
        raise ValueError(f"{after.shape} and {before.shape} items; accepted: the same items")
    return bootstrap_mean(after - before, groups=groups, seed=seed, draws=draws, level=level)


def mcnemar(after: np.ndarray, before: np.ndarray) -> float:
    """Compute the exact two-sided p-value of McNemar's test.

    McNemar, Psychometrika 12 (1947): of the items on which two models differ, half are expected to
    be right in one, if they are equally good.

    Args:
      after: bool [items], whether one model is right.
      before: bool [items], whether the other is.

    Returns:
      The p-value; 1 if they differ nowhere.

    Raises:
      ValueError: the numbers of items differ.
    """
    after = np.asarray(after, bool)
    before = np.asarray(before, bool)
    if after.shape != before.shape:
        raise ValueError(f"{after.shape} and {before.shape} items; accepted: the same items")
    gained = int(np.sum(after & ~before))
    lost = int(np.sum(before & ~after))
    count = gained + lost
    # Imported here: it takes seconds, which runs without such tests need not wait for.
    from scipy.stats import binomtest

    return float(binomtest(gained, count).pvalue) if count else 1.0


def _wilson(share: float, items: int, level: float) -> Interval:
    """The score interval of a share of 0 or 1 (Wilson, JASA 22, 1927)."""
    square = NormalDist().inv_cdf((1 + level) / 2) ** 2
    far = square / (items + square)
    low, high = (0.0, far) if share == 0 else (1 - far, 1.0)
    return Interval(share, low, high, items, level)


def _interval(value: float, found: np.ndarray, items: int, level: float) -> Interval:
    finite = found[np.isfinite(found)]
    if not len(finite):
        return Interval(value, math.nan, math.nan, items, level)
    low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high), items, level)
