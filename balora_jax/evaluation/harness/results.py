"""lm-eval's results of several models, side by side."""

import json
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from balora_jax.evaluation.results import Measured, Metric, TaskResult
from balora_jax.evaluation.statistics import Interval, paired_difference


def collect(found: Mapping[str, Mapping[str, Any]], sources: Mapping[str, str]) -> list[TaskResult]:
    """Put lm-eval's results of several models side by side.

    Args:
      found: lm-eval's results of each model, by the model's name.
      sources: the data set or the files of each task.

    Returns:
      The results of all tasks and groups.
    """
    first, *_ = found.values()
    results = []
    for task, values in first["results"].items():
        better = first["higher_is_better"].get(task, {})
        metrics = []
        for name in values:
            metric, _, kept = name.partition(",")
            if not _is_metric(name, values[name]):
                continue
            title = metric if kept in ("", "none") else name
            models = {
                model: _measured(result["results"][task], name) for model, result in found.items()
            }
            difference = _difference(found, task, metric, kept)
            metrics.append(Metric(title, better.get(metric), models, difference))
        results.append(TaskResult(task, values["sample_len"], sources.get(task, ""), metrics))
    return results


def sample_lines(samples: Sequence[Mapping[str, Any]]) -> list[str]:
    """Write each example of a task with the model's answer as a line of JSON.

    Args:
      samples: of one task, from lm-eval's results.
    """
    names = ("doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter")
    lines = []
    for sample in samples:
        line = {name: sample[name] for name in names}
        line |= {name: sample[name] for name in sample["metrics"]}
        lines.append(json.dumps(line, default=str, ensure_ascii=False) + "\n")
    return lines


def _is_metric(name: str, value: Any) -> bool:
    return "," in name and "_stderr," not in name and isinstance(value, numbers.Real)


def _measured(values: Mapping[str, Any], name: str) -> Measured:
    metric, _, kept = name.partition(",")
    stderr = values.get(f"{metric}_stderr,{kept}")
    known = isinstance(stderr, numbers.Real)
    return Measured(float(values[name]), float(stderr) if known else None)


def _difference(
    found: Mapping[str, Mapping[str, Any]], task: str, metric: str, kept: str
) -> Interval | None:
    """The interval of the mean difference over the examples of the first two models."""
    if len(found) < 2:
        return None
    after, before, *_ = (_of_examples(result, task, metric, kept) for result in found.values())
    if after is None or before is None or len(after) != len(before):
        return None
    # Of metrics that are no means, such as perplexities, a mean difference would be another number.
    models = [result["results"][task][f"{metric},{kept}"] for result in found.values()]
    if not np.allclose([after.mean(), before.mean()], models[:2], rtol=1e-6, atol=1e-9):
        return None
    return paired_difference(after, before)


def _of_examples(result: Mapping[str, Any], task: str, metric: str, kept: str) -> np.ndarray | None:
    """The metric of each example, in the order of the examples; None if it is no number."""
    samples = [
        sample
        for sample in result["samples"].get(task, [])
        if sample["filter"] == kept and metric in sample
    ]
    values = [sample[metric] for sample in sorted(samples, key=lambda sample: sample["doc_id"])]
    if not values or not all(isinstance(value, numbers.Real) for value in values):
        return None
    return np.array(values, np.float64)
