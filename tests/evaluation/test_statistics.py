"""Intervals that hold the truth as often as they say, and tests against scipy's."""

import numpy as np
import pytest
from scipy.stats import binomtest

from balora_jax.evaluation.statistics import bootstrap, bootstrap_mean, mcnemar, paired_difference


def test_intervals_of_means_hold_the_mean_as_often_as_they_say():
    draw = np.random.default_rng(0)
    inside = 0
    for trial in range(300):
        interval = bootstrap_mean(draw.normal(2.0, 1.0, 60), seed=trial, draws=400)
        inside += interval.low <= 2.0 <= interval.high
    # Four standard errors around 95 %, less what percentile intervals of 60 items lack.
    assert 0.88 < inside / 300 < 0.99


def test_a_large_sample_has_the_normal_interval():
    values = np.random.default_rng(1).normal(0.0, 3.0, 4000)
    interval = bootstrap_mean(values)
    half = 1.96 * values.std() / np.sqrt(len(values))
    np.testing.assert_allclose(
        [interval.low, interval.high], [values.mean() - half, values.mean() + half], atol=0.01
    )


def test_a_statistic_is_resampled_like_the_mean():
    values = np.random.default_rng(2).exponential(size=50)
    assert bootstrap(np.mean, values, draws=3000).low == pytest.approx(
        bootstrap_mean(values, draws=3000).low, abs=0.03
    )
    ratio = bootstrap(lambda a, b: a.sum() / b.sum(), values, 2 * values, draws=50)
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((0.5, 0.5, 0.5))


def test_pairs_are_resampled_together():
    before = np.random.default_rng(3).normal(0.0, 100.0, 80)
    interval = paired_difference(before + 1.0, before)
    assert (interval.low, interval.high) == pytest.approx((1.0, 1.0))


def test_items_of_a_group_are_resampled_together():
    draw = np.random.default_rng(5)
    inside = 0
    for trial in range(200):
        # 30 templates with ten alike sentences each.
        groups = np.repeat(np.arange(30), 10)
        values = draw.normal(2.0, 1.0, 30)[groups] + draw.normal(0.0, 0.1, 300)
        interval = bootstrap_mean(values, groups=groups, seed=trial, draws=400)
        naive = bootstrap_mean(values, seed=trial, draws=400)
        assert interval.value == naive.value
        assert interval.high - interval.low > 2 * (naive.high - naive.low)
        inside += interval.low <= 2.0 <= interval.high
    assert 0.85 < inside / 200 <= 1.0


def test_groups_of_different_sizes_keep_the_mean_of_items():
    values = np.array([1.0, 1.0, 1.0, 5.0])
    interval = bootstrap_mean(values, groups=np.array(["a", "a", "a", "b"]))
    assert (interval.value, interval.low, interval.high) == (2.0, 1.0, 5.0)
    interval = paired_difference(values, np.zeros(4), groups=np.array([0, 0, 0, 0]))
    assert (interval.value, interval.low, interval.high) == (2.0, 2.0, 2.0)


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (1, 0), (5, 5), (12, 3), (40, 60), (0, 1200)])
def test_mcnemar_is_the_binomial_test(gained, lost):
    after = np.array([True] * gained + [False] * lost + [True] * 7)
    before = np.array([False] * gained + [True] * lost + [True] * 7)
    expected = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    assert mcnemar(after, before) == pytest.approx(expected)


def test_items_that_do_not_match():
    with pytest.raises(ValueError, match="accepted: at least one"):
        bootstrap_mean(np.array([]))
    with pytest.raises(ValueError, match="accepted: the same items"):
        paired_difference(np.zeros(2), np.zeros(3))
    with pytest.raises(ValueError, match="accepted: the same items"):
        mcnemar(np.zeros(2), np.zeros(3))
    with pytest.raises(ValueError, match="accepted: as many in each"):
        bootstrap(np.mean, np.zeros(2), np.zeros(3))
