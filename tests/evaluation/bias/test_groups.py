"""Recall, calibration and group gaps against their definitions, scikit-learn's and fairlearn's."""

import sys

import numpy as np
import pytest
from comparison_cases import check_changes
from fairlearn.metrics import demographic_parity_difference, equal_opportunity_difference
from sklearn.metrics import recall_score

from balora_jax.errors import BadInput
from balora_jax.evaluation.bias import groups as groups_module
from balora_jax.evaluation.bias.groups import (
    calibration_error,
    compare_classes,
    compare_groups,
    measure_classes,
    measure_groups,
)


def _classifier(count, classes=3, seed=0):
    draw = np.random.default_rng(seed)
    labels = draw.integers(classes, size=count)
    logits = draw.normal(size=(count, classes)) + np.eye(classes)[labels]
    exponents = np.exp(logits)
    return labels, exponents / exponents.sum(axis=1, keepdims=True)


def _defined_calibration_error(correct, confidences, bins):
    """Guo et al.'s equation 3, bin by bin."""
    total = 0.0
    for m in range(1, bins + 1):
        inside = [i for i, c in enumerate(confidences) if (m - 1) / bins < c <= m / bins]
        if inside:
            accuracy = sum(correct[i] for i in inside) / len(inside)
            confidence = sum(confidences[i] for i in inside) / len(inside)
            total += len(inside) / len(confidences) * abs(accuracy - confidence)
    return total


def test_recalls_are_scikit_learns():
    labels, probabilities = _classifier(300)
    metrics = measure_classes("m", labels, probabilities)
    expected = recall_score(labels, probabilities.argmax(axis=1), average=None)
    assert [recall.value for recall in metrics.recalls] == pytest.approx(list(expected))
    assert all(recall.low < recall.value < recall.high for recall in metrics.recalls)


def test_a_class_without_examples():
    labels, probabilities = _classifier(50)
    kept = labels != 1
    assert measure_classes("m", labels[kept], probabilities[kept]).recalls[1] is None


@pytest.mark.parametrize("bins", [1, 2, 10, 15])
def test_calibration_error_is_that_of_the_paper(bins):
    labels, probabilities = _classifier(400)
    correct = probabilities.argmax(axis=1) == labels
    # Confidences at the edges of bins belong to the lower bin.
    confidences = np.round(probabilities.max(axis=1), 1)
    expected = _defined_calibration_error(correct, confidences, bins)
    assert calibration_error(correct, confidences, bins=bins) == pytest.approx(expected)


def test_calibrated_and_overconfident():
    draw = np.random.default_rng(1)
    confidences = draw.uniform(0.5, 1.0, 20000)
    correct = draw.uniform(size=20000) < confidences
    assert calibration_error(correct, confidences) < 0.02
    assert calibration_error(np.arange(100) % 2 == 0, np.ones(100)) == 0.5


def test_classifiers_are_compared_example_by_example():
    labels, probabilities = _classifier(300)
    before = measure_classes("base", labels, probabilities)
    better = 0.5 * probabilities + 0.5 * np.eye(3)[labels]
    after = measure_classes("adapter", labels, better)
    changes = compare_classes(after, before)
    assert set(changes) == {"accuracy", "recall.0", "recall.1", "recall.2", "calibration_error"}
    check_changes(changes, after.measures, before.measures)
    assert changes["accuracy"].difference.value == pytest.approx(1 - before.accuracy.value)
    assert changes["accuracy"].p_value < 1e-6
    with pytest.raises(ValueError, match="not the same"):
        compare_classes(after, measure_classes("other", labels[:9], probabilities[:9]))


def test_groups_are_fairlearns():
    labels, probabilities = _classifier(400, classes=2)
    groups = np.random.default_rng(2).choice(["b", "a", "c"], size=400).tolist()
    metrics = measure_groups("m", labels, probabilities, groups)
    predictions = probabilities.argmax(axis=1)
    options = {"sensitive_features": groups}
    expected = demographic_parity_difference(labels, predictions, **options)
    assert metrics.gaps["selected.1"].gap.value == pytest.approx(expected)
    expected = equal_opportunity_difference(labels, predictions, **options)
    assert metrics.gaps["recall.1"].gap.value == pytest.approx(expected)
    assert metrics.sizes == {group: groups.count(group) for group in "abc"}
    for group in "abc":
        chosen = np.array(groups) == group
        correct = (predictions == labels)[chosen]
        assert metrics.values["accuracy"][group].value == pytest.approx(correct.mean())
        hits = predictions[chosen & (labels == 0)] == 0
        assert metrics.values["recall.0"][group].value == pytest.approx(hits.mean())
        assert metrics.values["recall.0"][group].low < hits.mean()


def test_a_gap_of_chance_and_a_true_one():
    labels, probabilities = _classifier(400, classes=2)
    groups = np.random.default_rng(3).choice(["a", "b"], size=400)
    fair = measure_groups("m", labels, probabilities, groups.tolist())
    assert fair.gaps["accuracy"].p_value > 0.05
    # Every third prediction of one group is replaced by the other class.
    hurt = probabilities.copy()
    flipped = (groups == "b") & (np.arange(400) % 3 == 0)
    hurt[flipped] = np.eye(2)[1 - labels[flipped]]
    unfair = measure_groups("m", labels, hurt, groups.tolist())
    assert unfair.gaps["accuracy"].p_value < 0.01
    changes = compare_groups(unfair, fair)
    check_changes(changes, unfair.measures, fair.measures)
    # Accuracy and two measures of each class, in two groups and as gaps.
    assert len(changes) == 5 * 3
    assert unfair.measures["accuracy.gap.p_value"] == unfair.gaps["accuracy"].p_value
    assert changes["accuracy.gap"].difference.low > 0
    with pytest.raises(ValueError, match="not the same"):
        compare_groups(fair, measure_groups("m", labels, hurt, groups[::-1].tolist()))


def test_p_values_of_chance_are_uniform(monkeypatch):
    monkeypatch.setattr(groups_module, "PERMUTATIONS", 99)
    draw = np.random.default_rng(4)
    hits = draw.uniform(size=(60, 100)) < 0.7
    indices = np.arange(100) % 2
    gaps = [groups_module._gap(row, indices, seed) for seed, row in enumerate(hits)]
    # 12 expected; 25 is four standard errors above.
    assert sum(gap.p_value <= 0.2 for gap in gaps) < 25
    assert min(gap.p_value for gap in gaps) >= 0.01


def test_groups_whose_names_begin_alike_are_apart():
    labels = np.array([0, 0, 0, 0])
    probabilities = np.eye(2)[[0, 0, 0, 1]]
    metrics = measure_groups("m", labels, probabilities, ["a", "a", "a\0", "a\0"])
    assert metrics.gaps["accuracy"].gap.value == 0.5


def test_groups_without_examples_of_a_class():
    labels = np.array([0, 0, 1, 1])
    probabilities = np.eye(2)[[0, 1, 1, 1]]
    metrics = measure_groups("m", labels, probabilities, ["a", "a", "b", "b"])
    assert metrics.values["recall.1"]["a"] is None
    assert metrics.gaps["recall.1"] is None
    assert metrics.gaps["accuracy"].gap.value == 0.5


def test_one_group_and_no_fairlearn(monkeypatch):
    labels, probabilities = _classifier(20)
    with pytest.raises(BadInput, match="one value 'a'; accepted: a column of at least two"):
        measure_groups("m", labels, probabilities, ["a"] * 20)
    monkeypatch.setitem(sys.modules, "fairlearn.metrics", None)
    with pytest.raises(BadInput, match=r"accepted: pip install \"balora-jax\[eval\]\""):
        measure_groups("m", labels, probabilities, ["a", "b"] * 10)
