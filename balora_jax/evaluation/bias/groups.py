"""Recall, calibration and groups of a classifier, from labels and probabilities."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from balora_jax.errors import BadInput
from balora_jax.evaluation.bias.comparison import Comparison, check_same, compare_items
from balora_jax.evaluation.statistics import Interval, bootstrap, bootstrap_mean

BINS = 15
PERMUTATIONS = 2000


@dataclass(frozen=True)
class ClassMetrics:
    """The recall of each class and the calibration of a classifier.

    The calibration error of few examples is above 0 for a calibrated classifier too, and it says
    nothing about single classes or groups: errors of opposite sign within a bin cancel.

    Attributes:
      name: the classifier's.
      accuracy: the share of right predictions, 0 to 1.
      recalls: for each class, the share of its examples that are predicted as it, 0 to 1; None for
        a class without examples.
      calibration_error: the mean over examples of the distance between confidence and accuracy in
        their bin of confidence, 0 to 1; 0 is calibrated.
      labels: int [examples].
      correct: bool [examples].
      confidences: float64 [examples], the likeliest class's probability.
    """

    name: str
    accuracy: Interval
    recalls: tuple[Interval | None, ...]
    calibration_error: Interval
    labels: np.ndarray
    correct: np.ndarray
    confidences: np.ndarray

    @property
    def measures(self) -> dict[str, Interval]:
        """Accuracy, recall.C of each class C that has examples, and calibration_error."""
        recalls = {f"recall.{label}": recall for label, recall in enumerate(self.recalls)}
        return {
            "accuracy": self.accuracy,
            **{name: recall for name, recall in recalls.items() if recall is not None},
            "calibration_error": self.calibration_error,
        }


@dataclass(frozen=True)
class GroupGap:
    """The largest minus the smallest value of a metric among groups.

    Attributes:
      gap: 0 to 1, with its interval. Of small groups a gap is above 0, and so is its interval,
        where there is no difference: the p-value says if it is more than chance.
      p_value: the share of random assignments to groups of the same sizes that have a gap as large.
    """

    gap: Interval
    p_value: float


@dataclass(frozen=True)
class GroupMetrics:
    """The metrics of a classifier in groups of examples.

    Gaps cannot say why they are there: groups may differ in how hard their examples are, or in how
    often each class is right. Equal rates and equal recalls exclude each other where groups have
    different shares of the classes (Kleinberg et al., arXiv 1609.05807).

    Attributes:
      name: the classifier's.
      sizes: the number of examples of each group.
      values: the metric's name -> group -> its value, 0 to 1; None where the group has no example
        of the class. Metrics are accuracy, selected.C (the share predicted as class C) and recall.C
        (the share of class C predicted as C; true positive rates in equalized odds).
      gaps: by the metric's name; None unless two groups have a value.
      labels: int [examples].
      predictions: int [examples].
      groups: the group of each example.
    """

    name: str
    sizes: dict[str, int]
    values: dict[str, dict[str, Interval | None]]
    gaps: dict[str, GroupGap | None]
    labels: np.ndarray
    predictions: np.ndarray
    groups: tuple[str, ...]

    @property
    def measures(self) -> dict[str, Interval | float]:
        """The values by names such as accuracy[GROUP], the gaps as accuracy.gap, and p-values."""
        measures: dict[str, Interval | float] = {}
        for metric, values in self.values.items():
            named = {f"{metric}[{group}]": value for group, value in values.items()}
            measures |= {name: value for name, value in named.items() if value is not None}
            gap = self.gaps[metric]
            if gap is not None:
                measures |= {f"{metric}.gap": gap.gap, f"{metric}.gap.p_value": gap.p_value}
        return measures


def measure_classes(name: str, labels: np.ndarray, probabilities: np.ndarray) -> ClassMetrics:
    """Compute recalls and the expected calibration error.

    Guo et al. (2017), arXiv 1706.04599, equation 3, with BINS bins of equal width.

    Args:
      name: the classifier's.
      labels: int [examples].
      probabilities: [examples, D].

    Returns:
      The metrics, with intervals over examples.
    """
    labels = np.asarray(labels)
    probabilities = np.asarray(probabilities, np.float64)
    correct = probabilities.argmax(axis=1) == labels
    confidences = probabilities.max(axis=1)
    recalls = [
        bootstrap_mean(correct[labels == label]) if np.any(labels == label) else None
        for label in range(probabilities.shape[1])
    ]
    return ClassMetrics(
        name=name,
        accuracy=bootstrap_mean(correct),
        recalls=tuple(recalls),
        calibration_error=bootstrap(calibration_error, correct, confidences),
        labels=labels,
        correct=correct,
        confidences=confidences,
    )


def calibration_error(correct: np.ndarray, confidences: np.ndarray, *, bins: int = BINS) -> float:
    """Compute the expected calibration error.

    Args:
      correct: bool [examples].
      confidences: [examples], 0 to 1.
      bins: the number of bins; bin m holds the confidences above (m - 1) / bins, up to m / bins.

    Returns:
      The sum over bins of |accuracy - confidence|, each weighted by its share of the examples.
    """
    edges = np.arange(1, bins) / bins
    places = np.searchsorted(edges, confidences, side="left")
    # |accuracy - confidence| * examples of the bin = |sum of (correct - confidence)|.
    sums = np.bincount(places, weights=np.subtract(correct, confidences, dtype=np.float64))
    return float(np.abs(sums).sum() / len(confidences))


def compare_classes(after: ClassMetrics, before: ClassMetrics) -> dict[str, Comparison]:
    """Compare two classifiers on the same examples.

    Args:
      after: the metrics of one classifier.
      before: those of the other.

    Returns:
      The changes of accuracy, recall.C and calibration_error; those of shares have McNemar's
      p-value.

    Raises:
      ValueError: the labels differ.
    """
    check_same(after.labels.tolist(), before.labels.tolist())
    comparisons = {"accuracy": compare_items(after.correct, before.correct)}
    for label, recall in enumerate(after.recalls):
        if recall is not None:
            chosen = after.labels == label
            comparisons[f"recall.{label}"] = compare_items(
                after.correct[chosen], before.correct[chosen]
            )
    difference = bootstrap(
        lambda *arrays: calibration_error(*arrays[:2]) - calibration_error(*arrays[2:]),
        after.correct,
        after.confidences,
        before.correct,
        before.confidences,
    )
    return {**comparisons, "calibration_error": Comparison(difference)}


def measure_groups(
    name: str,
    labels: np.ndarray,
    probabilities: np.ndarray,
    groups: Sequence[str],
    *,
    seed: int = 0,
) -> GroupMetrics:
    """Compute the metrics of each group by fairlearn, and their gaps.

    Args:
      name: the classifier's.
      labels: int [examples].
      probabilities: [examples, D].
      groups: the group of each example.
      seed: of the random assignments.

    Returns:
      The metrics, with intervals over examples.

    Raises:
      BadInput: fairlearn is not installed, or there is only one group.
    """
    labels = np.asarray(labels)
    predictions = np.asarray(probabilities).argmax(axis=1)
    sizes = {str(group): list(groups).count(group) for group in sorted(set(groups))}
    if len(sizes) < 2:
        raise BadInput(
            f"the column of groups has the one value {next(iter(sizes), '')!r:.100}; accepted: a "
            "column of at least two groups"
        )
    indices = _indices(sizes, groups)
    metrics = _metrics(labels, predictions, np.shape(probabilities)[1])
    frame = _metric_frame(labels, predictions, groups, np.shape(probabilities)[1])
    values = {}
    gaps = {}
    for metric, (hits, counted) in metrics.items():
        values[metric] = {
            group: _interval(frame[metric][group], hits[counted & (indices == index)])
            for index, group in enumerate(sizes)
        }
        gaps[metric] = _gap(hits[counted], indices[counted], seed)
    return GroupMetrics(name, sizes, values, gaps, labels, predictions, tuple(groups))


def compare_groups(after: GroupMetrics, before: GroupMetrics) -> dict[str, Comparison]:
    """Compare the metrics of groups and their gaps of two classifiers on the same examples.

    Args:
      after: the metrics of one classifier.
      before: those of the other.

    Returns:
      The change of each metric in each group, with McNemar's p-value, and of its gap.

    Raises:
      ValueError: the examples differ.
    """
    check_same(after.groups, before.groups)
    check_same(after.labels.tolist(), before.labels.tolist())
    indices = _indices(after.sizes, after.groups)
    classes = sum(metric.startswith("recall.") for metric in after.gaps)
    old = _metrics(before.labels, before.predictions, classes)
    comparisons = {}
    for metric, (hits, counted) in _metrics(after.labels, after.predictions, classes).items():
        then = old[metric][0]
        for index, group in enumerate(after.sizes):
            chosen = counted & (indices == index)
            if chosen.any():
                name = f"{metric}[{group}]"
                comparisons[name] = compare_items(hits[chosen], then[chosen])
        if after.gaps[metric] is not None:
            difference = bootstrap(
                lambda places, now, then: _largest_gap(now, places) - _largest_gap(then, places),
                indices[counted],
                hits[counted],
                then[counted],
            )
            comparisons[f"{metric}.gap"] = Comparison(difference)
    return comparisons


def _indices(sizes: Mapping[str, int], groups: Sequence[str]) -> np.ndarray:
    """The number of each example's group, int [examples]."""
    numbers = {group: number for number, group in enumerate(sizes)}
    return np.array([numbers[group] for group in groups])


def _metrics(
    labels: np.ndarray, predictions: np.ndarray, classes: int
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """For each metric the hits [examples], and the examples that it counts."""
    everyone = np.ones(len(labels), bool)
    metrics = {"accuracy": (predictions == labels, everyone)}
    for label in range(classes):
        metrics[f"selected.{label}"] = (predictions == label, everyone)
        metrics[f"recall.{label}"] = (predictions == label, labels == label)
    return metrics


def _metric_frame(
    labels: np.ndarray, predictions: np.ndarray, groups: Sequence[str], classes: int
) -> dict[str, dict[str, float]]:
    """Fairlearn's value of each metric in each group."""
    try:
        from fairlearn.metrics import MetricFrame, selection_rate, true_positive_rate
    except ImportError as error:
        raise BadInput(
            "metrics of groups need fairlearn, which is not installed; accepted: pip install "
            '"balora-jax[eval]"'
        ) from error
    from sklearn.metrics import accuracy_score

    def values(metric: Any, truth: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
        frame = MetricFrame(
            metrics=metric, y_true=truth, y_pred=predicted, sensitive_features=list(groups)
        )
        return {str(group): float(value) for group, value in frame.by_group.items()}

    found = {"accuracy": values(accuracy_score, labels, predictions)}
    for label in range(classes):
        truth = (labels == label).astype(int)
        predicted = (predictions == label).astype(int)
        found[f"selected.{label}"] = values(selection_rate, truth, predicted)
        found[f"recall.{label}"] = values(_recall(true_positive_rate), truth, predicted)
    return found


def _recall(true_positive_rate: Any) -> Any:
    """The true positive rate, whose positive class a group need not have."""

    def recall(truth: np.ndarray, predicted: np.ndarray) -> float:
        return float(true_positive_rate(truth, predicted, pos_label=1))

    return recall


def _interval(value: float, hits: np.ndarray) -> Interval | None:
    if not len(hits):
        return None
    interval = bootstrap_mean(hits)
    return dataclasses.replace(interval, value=value)


def _gap(hits: np.ndarray, indices: np.ndarray, seed: int) -> GroupGap | None:
    if len(np.unique(indices)) < 2:
        return None
    gap = bootstrap(_largest_gap, hits, indices)
    generator = np.random.default_rng(seed)
    shuffled = [_largest_gap(hits, generator.permutation(indices)) for _ in range(PERMUTATIONS)]
    # The assignment itself is one of the possible ones; equal gaps differ in their last bits.
    as_large = np.count_nonzero(np.array(shuffled) >= gap.value - 1e-12)
    return GroupGap(gap, (as_large + 1) / (PERMUTATIONS + 1))


def _largest_gap(hits: np.ndarray, indices: np.ndarray) -> float:
    """The largest minus the smallest mean among the groups that have examples."""
    counts = np.bincount(indices)
    sums = np.bincount(indices, weights=hits)
    means = sums[counts > 0] / counts[counts > 0]
    return float(means.max() - means.min())
