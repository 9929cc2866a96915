"""Intervals that hold the truth as often as they say, and tests against scipy's."""

import numpy as np
import pytest
from scipy.stats import binomtest

from balora_jax.evaluation.statistics import (
    Interval,
    bootstrap,
    bootstrap_mean,
    mcnemar,
    paired_difference,
)


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
    after = before + np.random.default_rng(4).choice([0.9, 1.1], 80)
    interval = paired_difference(after, before)
    assert (interval.low, interval.high) == pytest.approx((1.0, 1.0), abs=0.05)


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
    assert interval.items == 2


def test_one_item_or_group_has_no_interval():
    values = np.array([1.0, 1.0, 1.0, 5.0])
    for interval in (
        bootstrap_mean(values, groups=np.zeros(4)),
        bootstrap_mean(values[:1]),
        bootstrap_mean(np.ones(1)),
        bootstrap(np.mean, values, groups=np.zeros(4)),
        bootstrap(np.mean, values[:1]),
        # Nor have equal numbers: they do not say how other items vary.
        paired_difference(values, values - 1),
    ):
        assert np.isnan(interval.low) and np.isnan(interval.high)
        assert "(" not in interval.text()


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("items", [1, 5, 164])
def test_equal_truth_values_have_wilsons_interval(share, items):
    interval = bootstrap_mean(np.full(items, share))
    expected = binomtest(items * share, items).proportion_ci(method="wilson")
    assert (interval.low, interval.high) == pytest.approx(tuple(expected))
    assert interval.value == share and interval.items == items


def test_a_statistic_of_groups_resamples_them_together():
    draw = np.random.default_rng(6)
    groups = np.repeat(np.arange(20), 5)
    values = draw.normal(size=20)[groups]
    found = bootstrap(np.mean, values, groups=groups, draws=3000)
    expected = bootstrap_mean(values, groups=groups, draws=3000)
    assert found.items == expected.items == 20
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.05)


def test_an_interval_as_text():
    assert Interval(0.5, 0.25, 0.75, 8).text() == "0.500 (0.250 to 0.750)"
    assert Interval(0.5, -0.25, 0.75, 8).text(sign=True) == "+0.500 (-0.250 to +0.750)"


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
