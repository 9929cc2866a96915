"""The measures of bias by name, for language models: reading, measuring and comparing."""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from balora_jax.errors import BadInput
from balora_jax.evaluation.bias.comparison import Comparison
from balora_jax.evaluation.bias.counterfactuals import compare_gaps, measure_gaps
from balora_jax.evaluation.bias.seat import (
    DEFAULT,
    Association,
    SentenceSets,
    read_sentence_sets,
)
from balora_jax.evaluation.bias.seat_tests import (
    compare_tests,
    measure_tests,
    measures_of_tests,
)
from balora_jax.evaluation.bias.stereoset import (
    KINDS,
    StereoSet,
    compare_stereoset,
    measure_stereoset,
    read_stereoset,
)
from balora_jax.evaluation.bias.templates import read_templates
from balora_jax.evaluation.bias.winobias import (
    WinoBias,
    compare_winobias,
    measure_winobias,
    read_winobias,
)
from balora_jax.evaluation.results import Measured, Metric, TaskResult, finite
from balora_jax.evaluation.statistics import Interval


class BiasTask(NamedTuple):
    """A measure of bias.

    Attributes:
      measure: (model, items) -> its result.
      intervals: result -> its intervals by name, as `compare` names the changes; numbers without
        an interval as such.
      compare: (result after, result before) -> the changes by name.
      items: result -> an object for each item, with what was found for it.
      better: the scores of which more is better; of the others neither is.
    """

    measure: Callable[[Any, Any], Any]
    intervals: Callable[[Any], Mapping[str, Interval | float]]
    compare: Callable[[Any, Any], Mapping[str, Comparison]]
    items: Callable[[Any], Iterable[Mapping[str, Any]]]
    better: tuple[str, ...] = ()


def _measures(result: Any) -> Mapping[str, Interval]:
    return result.measures


def measures_of_slots(gaps: Mapping[str, Any]) -> Mapping[str, Interval]:
    """Return the measures of all slots of templates.

    Args:
      gaps: the result of each slot.
    """
    return {name: value for slot in gaps.values() for name, value in slot.measures.items()}


def _stereoset_items(found: StereoSet) -> Iterator[dict[str, Any]]:
    for item, scores in zip(found.items, found.log_likelihoods.tolist(), strict=True):
        yield dataclasses.asdict(item) | {"log_likelihoods": dict(zip(KINDS, scores, strict=True))}


def _winobias_items(found: WinoBias) -> Iterator[dict[str, Any]]:
    for pair, log_odds in zip(found.pairs, found.log_odds.tolist(), strict=True):
        yield dataclasses.asdict(pair) | {"log_odds": log_odds}


def _seat_items(found: Sequence[Association]) -> Iterator[dict[str, Any]]:
    for result in found:
        targets = [text for texts in result.sets.targets.values() for text in texts]
        for text, value in zip(targets, result.associations.tolist(), strict=True):
            yield {"test": result.test, "sentence": text, "association": value}


def items_of_slots(gaps: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield what was found for each sentence with its twins.

    Args:
      gaps: the result of each slot.
    """
    for slot, found in gaps.items():
        columns = {
            field.name.removeprefix("item_"): getattr(found, field.name).tolist()
            for field in dataclasses.fields(found)
            if field.name.startswith("item_")
        }
        for index, twins in enumerate(found.twins):
            values = {name: column[index] for name, column in columns.items()}
            yield {"slot": slot, "sentences": list(twins.sentences), **values}


SEAT = BiasTask(measure_tests, measures_of_tests, compare_tests, _seat_items)
BIAS_TASKS = {
    "stereoset": BiasTask(
        measure_stereoset,
        _measures,
        compare_stereoset,
        _stereoset_items,
        better=("language_model", "icat"),
    ),
    "winobias": BiasTask(measure_winobias, _measures, compare_winobias, _winobias_items),
    "seat": SEAT,
    "templates": BiasTask(measure_gaps, measures_of_slots, compare_gaps, items_of_slots),
}


def read_items(
    task: str,
    data_dir: pathlib.Path | None,
    templates: str | None,
    seat: str | None,
    limit: int | None,
) -> tuple[Any, str]:
    """Read the items of a measure.

    Args:
      task: a name of BIAS_TASKS.
      data_dir: a folder with a folder of the task's name; None for the hub.
      templates: the file of templates.
      seat: the file of SEAT's tests; None for those of names and gender.
      limit: the number of items; None for all.

    Returns:
      The items, and their source.

    Raises:
      BadInput: the files are not there, or not as they should be.
    """
    if task == "templates":
        return read_templates(templates), templates
    if task == "seat":
        return read_sentence_tests(seat)
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
    return read_winobias(folder, limit=limit), str(folder)


def read_sentence_tests(path: str | None) -> tuple[tuple[SentenceSets, ...], str]:
    """Read SEAT's tests.

    Args:
      path: the file; None for the tests of names and gender.

    Returns:
      The tests, and their source.

    Raises:
      BadInput: the file is no file of tests.
    """
    if path is None:
        return DEFAULT, "the tests of names and gender"
    return read_sentence_sets(path), path


def item_lines(spec: BiasTask, found: Any) -> str:
    """Write what a measure found for each item, a line of JSON each.

    Args:
      spec: the measure.
      found: its result.
    """
    rows = [json.dumps(finite(dict(item)), ensure_ascii=False) for item in spec.items(found)]
    return "".join(f"{row}\n" for row in rows)


def bias_result(
    task: str, spec: BiasTask, found: Mapping[str, Any], items: int, source: str
) -> TaskResult:
    """Put the results of several models side by side.

    Args:
      task: the name of the result.
      spec: the measure.
      found: the result of each model, by the model's name.
      items: the number of items.
      source: where they are from.

    Returns:
      The result of the task.
    """
    scores = {model: spec.intervals(result) for model, result in found.items()}
    changes: Mapping[str, Comparison] = {}
    if len(found) > 1:
        after, before, *_ = found.values()
        changes = spec.compare(after, before)
    metrics = []
    for name in next(iter(scores.values())):
        models = {model: _measured(intervals[name]) for model, intervals in scores.items()}
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


def _measured(value: Interval | float) -> Measured:
    if isinstance(value, Interval):
        return Measured(value.value, interval=value)
    return Measured(value)
