"""The results of an evaluation: metrics of each model, and the paired difference of two models."""

import dataclasses
import math
from typing import Any

from balora_jax.evaluation.statistics import Interval


@dataclasses.dataclass(frozen=True)
class Measured:
    """A metric of one model.

    Attributes:
      value: the metric.
      stderr: its standard error, where that is what the harness gives; None otherwise.
      interval: its bootstrap interval, where one was taken; None otherwise.
    """

    value: float
    stderr: float | None = None
    interval: Interval | None = None


@dataclasses.dataclass(frozen=True)
class Metric:
    """A metric of a task for every model.

    Attributes:
      name: the metric's, with the filter's behind a comma where there are several.
      higher_is_better: None if unknown, or if neither is.
      models: the metric of each model, by the model's name.
      difference: the first model's minus the second one's over the same examples, with its
        interval; None for a single model and for metrics that are no means over examples.
      p_value: of McNemar's exact test on that difference; None for other metrics.
    """

    name: str
    higher_is_better: bool | None
    models: dict[str, Measured]
    difference: Interval | None = None
    p_value: float | None = None


@dataclasses.dataclass(frozen=True)
class TaskResult:
    """The metrics of a task or a group of tasks.

    Attributes:
      task: the name.
      examples: the number of examples.
      source: the data set or the files; empty for a group.
      metrics: of the task.
    """

    task: str
    examples: int
    source: str
    metrics: list[Metric]

    def to_json(self) -> dict[str, Any]:
        """The result as an object; numbers that are not finite are None, as JSON has none."""
        return finite(dataclasses.asdict(self))


def finite(value: Any) -> Any:
    """Replace numbers that are not finite by None, which JSON can write.

    Args:
      value: numbers, texts, and lists and mappings of them.
    """
    if isinstance(value, dict):
        return {key: finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
