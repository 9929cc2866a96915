"""Predictions as GLUE's server takes them."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from balora_jax.data.glue import TextTask


def write_predictions(path: Path, task: TextTask, predictions: np.ndarray) -> None:
    """Write one set's predictions: a tab between index and prediction, a line a row, a header.

    Args:
        path: the file; its folder is made if need be.
        task: says whether a class is written by name or by number, and between which scores.
        predictions: [examples], classes or scores.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (f"{index}\t{value}\n" for index, value in enumerate(_values(task, predictions)))
    path.write_text("index\tprediction\n" + "".join(lines), encoding="utf-8")


def _values(task: TextTask, predictions: np.ndarray) -> Iterator[str]:
    for prediction in predictions:
        if task.scores:
            yield f"{np.clip(prediction, *task.scores):.3f}"
        else:
            yield task.labels[int(prediction)] if task.submits_names else str(int(prediction))
