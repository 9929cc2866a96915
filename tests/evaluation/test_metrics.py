"""Metrics against their definitions, and what they are where those say nothing."""

import numpy as np
import pytest

from balora_jax.evaluation.metrics import METRICS, count_as_wrong, predict, score

PREDICTED, LABELS = np.array([1, 1, 0, 0, 1, 0]), np.array([1, 0, 0, 1, 1, 0])


def test_of_classes():
    found = score(("accuracy", "f1", "macro_f1", "matthews"), PREDICTED, LABELS)
    # Two true and one false of either kind.
    expected = {"accuracy": 4 / 6, "f1": 2 / 3, "macro_f1": 2 / 3, "matthews": (2 * 2 - 1) / 9}
    assert found == pytest.approx(expected)


def test_of_scores():
    predicted, labels = np.array([1.0, 2.0, 4.0, 8.0]), np.array([0.0, 1.0, 3.0, 2.0])
    found = score(("pearson", "spearman"), predicted, labels)
    assert found == pytest.approx(
        {"pearson": np.corrcoef(predicted, labels)[0, 1], "spearman": 0.8}
    )


@pytest.mark.parametrize("name", METRICS)
def test_the_same_prediction_everywhere_is_a_number(name):
    value = METRICS[name](np.zeros(6), LABELS)
    assert np.isfinite(value) and (value == 0 or name in ("accuracy", "macro_f1"))


@pytest.mark.parametrize("name", ["pearson", "spearman"])
def test_one_example_has_no_correlation(name):
    assert METRICS[name](np.ones(1), np.ones(1)) == 0


def test_predictions():
    logits = np.array([[0.1, 2.0], [3.0, -1.0]])
    assert predict(logits, regression=False).tolist() == [1, 0]
    assert predict(logits[:, :1], regression=True).tolist() == [0.1, 3.0]


def test_no_prediction_is_a_wrong_one():
    none, labels = np.array([False, True, True]), np.array([2, 2, 0])
    assert count_as_wrong(np.array([1, -1, -1]), none, labels, 3).tolist() == [1, 0, 1]
