"""Metrics of predictions, by scikit-learn and scipy."""

import functools
import warnings
from collections.abc import Callable, Sequence

import numpy as np

# scipy.stats and scikit-learn are imported where they are used: they take seconds, which runs of
# language models need not wait for.


def _correlation(name: str, predictions: np.ndarray, labels: np.ndarray) -> float:
    """A correlation; 0 if it is undefined, for one example or constant predictions or labels."""
    from scipy import stats

    if len(labels) < 2:
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        return float(np.nan_to_num(getattr(stats, name)(predictions, labels).statistic))


def _of_classes(name: str, predictions: np.ndarray, labels: np.ndarray, **options: object) -> float:
    """One of scikit-learn's measures of classes."""
    from sklearn import metrics

    return float(getattr(metrics, name)(labels, predictions, **options))


METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "accuracy": functools.partial(_of_classes, "accuracy_score"),
    "f1": functools.partial(_of_classes, "f1_score", zero_division=0.0),
    "macro_f1": functools.partial(_of_classes, "f1_score", average="macro", zero_division=0.0),
    "matthews": functools.partial(_of_classes, "matthews_corrcoef"),
    "pearson": functools.partial(_correlation, "pearsonr"),
    "spearman": functools.partial(_correlation, "spearmanr"),
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
