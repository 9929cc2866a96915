"""Metrics of predictions, by scikit-learn and scipy."""

import warnings
from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats
from sklearn import metrics


def _correlation(measure: Callable, predictions: np.ndarray, labels: np.ndarray) -> float:
    """A correlation; 0 if it is undefined, for one example or constant predictions or labels."""
    if len(labels) < 2:
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        return float(np.nan_to_num(measure(predictions, labels).statistic))


METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "accuracy": lambda predictions, labels: float(metrics.accuracy_score(labels, predictions)),
    "f1": lambda predictions, labels: float(
        metrics.f1_score(labels, predictions, zero_division=0.0)
    ),
    "macro_f1": lambda predictions, labels: float(
        metrics.f1_score(labels, predictions, average="macro", zero_division=0.0)
    ),
    "matthews": lambda predictions, labels: float(metrics.matthews_corrcoef(labels, predictions)),
    "pearson": lambda predictions, labels: _correlation(stats.pearsonr, predictions, labels),
    "spearman": lambda predictions, labels: _correlation(stats.spearmanr, predictions, labels),
}


def predict(logits: np.ndarray, *, regression: bool) -> np.ndarray:
    """Turn logits into predictions.

    Args:
      logits: [examples, D].
      regression: True if the outputs are scores.

    Returns:
      [examples], the likeliest classes, or the scores.
    """
    return logits[:, 0] if regression else logits.argmax(axis=-1)


def count_as_wrong(
    predictions: np.ndarray, missing: np.ndarray, labels: np.ndarray, classes: int
) -> np.ndarray:
    """Replace missing predictions by a wrong class: the one after the label.

    Of two classes that is the other one, as in T5's F1.

    Args:
      predictions: [examples], classes.
      missing: [examples], True where there is no prediction.
      labels: [examples], classes.
      classes: the number of classes.

    Returns:
      [examples], classes.
    """
    return np.where(missing, (labels + 1) % classes, predictions)


def score(names: Sequence[str], predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Compute metrics.

    Args:
      names: the keys of METRICS to compute.
      predictions: [examples], classes or scores.
      labels: [examples], classes or scores.

    Returns:
      The metrics by name; higher is better.
    """
    return {name: METRICS[name](predictions, labels) for name in names}
