"""The measures of bias by name, for language models: reading, measuring and comparing."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from balora_jax.errors import BadInput
from balora_jax.evaluation.bias.comparison import Comparison
from balora_jax.evaluation.bias.counterfactuals import compare_gaps, measure_gaps
from balora_jax.evaluation.bias.stereoset import (
    compare_stereoset,
    measure_stereoset,
    read_stereoset,
)
from balora_jax.evaluation.bias.templates import read_templates
from balora_jax.evaluation.bias.winobias import compare_winobias, measure_winobias, read_winobias
from balora_jax.evaluation.results import Measured, Metric, TaskResult
from balora_jax.evaluation.statistics import Interval


class BiasTask(NamedTuple):
    """A measure of bias.

    Attributes:
      measure: (model, items) -> its result.
      intervals: result -> its intervals by name, as `compare` names the changes.
      compare: (result after, result before) -> the changes by name.
      better: the scores of which more is better; of the others neither is.
    """

    measure: Callable[[Any, Any], Any]
    intervals: Callable[[Any], Mapping[str, Interval]]
    compare: Callable[[Any, Any], Mapping[str, Comparison]]
    better: tuple[str, ...] = ()


def _measures(result: Any) -> Mapping[str, Interval]:
    return result.measures


def _measures_of_slots(gaps: Mapping[str, Any]) -> Mapping[str, Interval]:
    return {name: value for slot in gaps.values() for name, value in slot.measures.items()}


BIAS_TASKS = {
    "stereoset": BiasTask(
        measure_stereoset, _measures, compare_stereoset, better=("language_model", "icat")
    ),
    "winobias": BiasTask(measure_winobias, _measures, compare_winobias),
    "templates": BiasTask(measure_gaps, _measures_of_slots, compare_gaps),
}


def read_items(
    task: str, data_dir: pathlib.Path | None, templates: str | None, limit: int | None
) -> tuple[Any, str]:
    """Read the items of a measure.

    Args:
      task: a name of BIAS_TASKS.
      data_dir: a folder with a folder of the task's name; None for the hub.
      templates: the file of templates.
      limit: the number of items; None for all.

    Returns:
      The items, and their source.

    Raises:
      BadInput: the files are not there, or not as they should be.
    """
    if task == "templates":
        return read_templates(templates), templates
    folder = None if data_dir is None else data_dir / task
    if folder is not None and not folder.is_dir():
        folder = None
    if task == "stereoset":
        return read_stereoset(folder, limit=limit), str(folder or "the hub's stereoset")
    if folder is None:
        raise BadInput(
            "winobias reads the public files; accepted: --data-dir with a folder winobias that "
            "holds pro_stereotyped_type1.txt.test and the like"
        )
    return read_winobias(folder, limit=limit).pairs, str(folder)


def bias_result(task: str, found: Mapping[str, Any], items: int, source: str) -> TaskResult:
    """Put the results of several models side by side.

    Args:
      task: a name of BIAS_TASKS.
      found: the result of each model, by the model's name.
      items: the number of items.
      source: where they are from.

    Returns:
      The result of the task.
    """
    spec = BIAS_TASKS[task]
    scores = {model: spec.intervals(result) for model, result in found.items()}
    changes: Mapping[str, Comparison] = {}
    if len(found) > 1:
        after, before, *_ = found.values()
        changes = spec.compare(after, before)
    metrics = []
    for name in next(iter(scores.values())):
        models = {
            model: Measured(intervals[name].value, interval=intervals[name])
            for model, intervals in scores.items()
        }
        better = True if name.rpartition(".")[2] in spec.better else None
        change = changes.get(name)
        metrics.append(
            Metric(
                name,
                better,
                models,
                None if change is None else change.difference,
                None if change is None else change.p_value,
            )
        )
    return TaskResult(task, items, source, metrics)
