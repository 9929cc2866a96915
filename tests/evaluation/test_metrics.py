"""Metrics against their definitions, and their values at degenerate predictions."""

import numpy as np
import pytest

from balora_jax.evaluation.metrics import METRICS, count_as_wrong, predict, score

PREDICTED = np.array([1, 1, 0, 0, 1, 0])
LABELS = np.array([1, 0, 0, 1, 1, 0])


def test_metrics_of_classes():
    actual = score(("accuracy", "f1", "macro_f1", "matthews"), PREDICTED, LABELS)
    # Of each class two predictions are right and one is wrong.
    expected = {"accuracy": 4 / 6, "f1": 2 / 3, "macro_f1": 2 / 3, "matthews": (2 * 2 - 1) / 9}
    assert actual == pytest.approx(expected)


def test_correlations_of_scores():
    predicted = np.array([1.0, 2.0, 4.0, 8.0])
    labels = np.array([0.0, 1.0, 3.0, 2.0])
    actual = score(("pearson", "spearman"), predicted, labels)
    assert actual == pytest.approx(
        {"pearson": np.corrcoef(predicted, labels)[0, 1], "spearman": 0.8}
    )


@pytest.mark.parametrize("name", METRICS)
def test_constant_predictions_give_a_finite_value(name):
    value = METRICS[name](np.zeros(6), LABELS)
    assert np.isfinite(value) and (value == 0 or name in ("accuracy", "macro_f1"))


@pytest.mark.parametrize("name", ["pearson", "spearman"])
def test_one_example_has_no_correlation(name):
    assert METRICS[name](np.ones(1), np.ones(1)) == 0


def test_predictions():
    logits = np.array([[0.1, 2.0], [3.0, -1.0]])
    assert predict(logits, regression=False).tolist() == [1, 0]
    assert predict(logits[:, :1], regression=True).tolist() == [0.1, 3.0]


def test_a_missing_prediction_counts_as_wrong():
    missing = np.array([False, True, True])
    labels = np.array([2, 2, 0])
    assert count_as_wrong(np.array([1, -1, -1]), missing, labels, 3).tolist() == [1, 0, 1]
