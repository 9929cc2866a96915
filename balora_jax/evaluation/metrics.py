"""What predictions are worth: a task's metrics, by scikit-learn and scipy."""

import warnings
from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats
from sklearn import metrics


def _correlation(measure: Callable, predictions: np.ndarray, labels: np.ndarray) -> float:
    """0 where it is not defined: one example, or the same prediction or label everywhere."""
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
    """[examples, D] logits -> [examples] classes, or scores where the task has them."""
    return logits[:, 0] if regression else logits.argmax(axis=-1)


def count_as_wrong(
    predictions: np.ndarray, none: np.ndarray, labels: np.ndarray, classes: int
) -> np.ndarray:
    """The predictions, with a wrong class where there is none: the one after the right one.

    Of two classes that is the other one, as in T5's F1.

    Args:
      predictions: [examples], classes.
      none: [examples] bool, where there is no prediction.
      labels: [examples], the right classes.
      classes: how many there are.
    """
    return np.where(none, (labels + 1) % classes, predictions)


def score(names: Sequence[str], predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Each metric of METRICS named; the higher, the better.

    Args:
      names: which.
      predictions: [examples], classes or scores.
      labels: [examples], likewise.
    """
    return {name: METRICS[name](predictions, labels) for name in names}
