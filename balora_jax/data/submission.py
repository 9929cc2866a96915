"""Files of predictions in the format of GLUE's server."""

from pathlib import Path

import numpy as np

from balora_jax.data.glue import TextTask


def write_predictions(path: Path, task: TextTask, predictions: np.ndarray) -> None:
    """Write the predictions for one set: a header, then index and prediction with a tab between.

    Args:
      path: the file; its folder is made where it is missing.
      task: the format: names or numbers of classes, or scores within a range.
      predictions: classes or scores, [examples].
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["index\tprediction\n"]
    for index, prediction in enumerate(predictions):
        lines.append(f"{index}\t{_format(task, prediction)}\n")
    path.write_text("".join(lines), encoding="utf-8")


def _format(task: TextTask, prediction: float) -> str:
    if task.scores is not None:
        return f"{np.clip(prediction, *task.scores):.3f}"
    if task.submits_names:
        return task.labels[int(prediction)]
    return str(int(prediction))
