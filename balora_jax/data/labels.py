"""The labels of a classification set: classes or scores, from what its rows hold."""

import contextlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from balora_jax.data.batch import DTYPES, SCORE_DTYPE
from balora_jax.data.glue import TextTask
from balora_jax.data.sources import Rows
from balora_jax.errors import BadInput, listed, shown


def read_labels(rows: Rows, task: TextTask) -> np.ndarray:
    """Read the label of every row.

    Args:
      rows: from `load_rows`.
      task: the classes, or the range of the scores.

    Returns:
      int32 classes or float32 scores, [rows].

    Raises:
      BadInput: a label is missing, of another type, or out of range; the message says where.
    """
    rows.require((task.label_field,))
    values = [row.get(task.label_field) for row in rows]
    if task.scores is not None:
        scores = [_score(value, task, rows.where(row)) for row, value in enumerate(values)]
        return np.array(scores, SCORE_DTYPE)
    numbers = _class_numbers(task)
    classes = [_class(value, task, rows.where(row), numbers) for row, value in enumerate(values)]
    return np.array(classes, DTYPES.targets)


def _class_numbers(task: TextTask) -> dict[str, int]:
    """Map each class's name to its number, and its number too unless some name is a number."""
    names = {name: number for number, name in enumerate(task.labels)}
    if any(re.fullmatch(r"-?\d+", name) for name in names):
        return names
    return {str(number): number for number in names.values()} | names


def _class(value: Any, task: TextTask, where: str, numbers: Mapping[str, int]) -> int:
    if isinstance(value, str | int) and not isinstance(value, bool):
        for name in (str(value), str(value).strip()):
            if name in numbers:
                return numbers[name]
    accepted = list(task.labels)
    if len(numbers) > len(task.labels):
        accepted = [f"{number} ({name})" for number, name in enumerate(task.labels)]
    raise BadInput(
        f"{where}: {task.label_field} is {shown(value)}; {task.name} accepts: {listed(accepted)}"
    )


def _score(value: Any, task: TextTask, where: str) -> float:
    low, high = task.scores
    score = float("nan")
    if not isinstance(value, bool):
        with contextlib.suppress(OverflowError, TypeError, ValueError):
            score = float(value)
    if low <= score <= high:
        return score
    raise BadInput(
        f"{where}: {task.label_field} is {shown(value)}; "
        f"{task.name} accepts: a number from {low:g} to {high:g}"
    )
