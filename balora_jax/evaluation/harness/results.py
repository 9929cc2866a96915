"""lm-eval's results of several models, side by side."""

import json
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from balora_jax.evaluation.bias.comparison import Comparison, compare_items
from balora_jax.evaluation.results import Measured, Metric, TaskResult
from balora_jax.evaluation.statistics import bootstrap_mean


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
            title = _title(name)
            models = {
                model: _measured(result, task, metric, kept) for model, result in found.items()
            }
            change = _change(found, task, metric, kept)
            difference = None if change is None else change.difference
            p_value = None if change is None else change.p_value
            metrics.append(Metric(title, better.get(metric), models, difference, p_value))
        results.append(TaskResult(task, values["sample_len"], sources.get(task, ""), metrics))
    return results


def values_of(found: Mapping[str, Any]) -> dict[str, float]:
    """List the metrics of one model.

    Args:
      found: lm-eval's results.

    Returns:
      The value of each metric, by `task/metric`.
    """
    return {
        f"{task}/{_title(name)}": float(value)
        for task, values in found["results"].items()
        for name, value in values.items()
        if _is_metric(name, value)
    }


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


def _title(name: str) -> str:
    """The name of a metric, with its filter where there are several."""
    metric, _, kept = name.partition(",")
    return metric if kept in ("", "none") else name


def _is_metric(name: str, value: Any) -> bool:
    return "," in name and "_stderr," not in name and isinstance(value, numbers.Real)


def _measured(result: Mapping[str, Any], task: str, metric: str, kept: str) -> Measured:
    """The metric of one model, with lm-eval's standard error and the interval of a mean."""
    values = result["results"][task]
    stderr = values.get(f"{metric}_stderr,{kept}")
    known = isinstance(stderr, numbers.Real)
    examples = _of_examples(result, task, metric, kept)
    return Measured(
        float(values[f"{metric},{kept}"]),
        stderr=float(stderr) if known else None,
        interval=None if examples is None else bootstrap_mean(examples),
    )


def _change(
    found: Mapping[str, Mapping[str, Any]], task: str, metric: str, kept: str
) -> Comparison | None:
    """The change of a mean over the same examples from the second model to the first."""
    if len(found) < 2:
        return None
    after, before, *_ = (_of_examples(result, task, metric, kept) for result in found.values())
    if after is None or before is None or len(after) != len(before):
        return None
    return compare_items(after, before)


def _of_examples(result: Mapping[str, Any], task: str, metric: str, kept: str) -> np.ndarray | None:
    """The metric of each example in their order, bool for yes or no; None if it is no mean."""
    samples = [
        sample
        for sample in result["samples"].get(task, [])
        if sample["filter"] == kept and metric in sample
    ]
    values = [sample[metric] for sample in sorted(samples, key=lambda sample: sample["doc_id"])]
    if not values or not all(isinstance(value, numbers.Real) for value in values):
        return None
    examples = np.array(values, np.float64)
    # Of metrics that are no means, such as perplexities, an interval would be of another number.
    value = result["results"][task][f"{metric},{kept}"]
    if not np.isclose(examples.mean(), value, rtol=1e-6, atol=1e-9):
        return None
    is_share = np.isin(examples, (0, 1)).all()
    return examples.astype(bool) if is_share else examples
