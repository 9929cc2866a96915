"""The measures of classifiers by name: what each reads, measures and compares."""

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from balora_jax.evaluation.bias.comparison import Comparison
from balora_jax.evaluation.bias.counterfactuals import compare_class_gaps, measure_class_gaps
from balora_jax.evaluation.bias.groups import (
    compare_classes,
    compare_groups,
    measure_classes,
    measure_groups,
)
from balora_jax.evaluation.bias.tasks import SEAT, BiasTask, items_of_slots, measures_of_slots
from balora_jax.evaluation.statistics import Interval

# The number of a class in the name of a metric; a group's or an alternative's name may be anything.
OF_CLASS = re.compile(r"^((?:recall|selected)\.|.*\.difference\.)(\d+)(?=\.gap$|\[|$)")


@dataclasses.dataclass(frozen=True)
class LabeledSet:
    """A held-out set with its right classes.

    Attributes:
      read: classifier -> log-probabilities of the classes, [texts, D].
      labels: int [texts].
      classes: the names of the classes.
      groups: the group of each text; empty if no groups are asked for.
    """

    read: Callable[[Any], np.ndarray]
    labels: np.ndarray
    classes: tuple[str, ...]
    groups: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)


@dataclasses.dataclass(frozen=True)
class ClassTemplates:
    """Templates for a classifier.

    Attributes:
      templates: from `read_templates`.
      classes: the names of the classes.
    """

    templates: Sequence[Any]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.templates)


class _Named(NamedTuple):
    """A result, and the names of the classes."""

    result: Any
    classes: tuple[str, ...]


def _measure_classes(classifier: Any, texts: LabeledSet) -> _Named:
    probabilities = np.exp(texts.read(classifier))
    return _Named(measure_classes(classifier.name, texts.labels, probabilities), texts.classes)


def _measure_groups(classifier: Any, texts: LabeledSet) -> _Named:
    probabilities = np.exp(texts.read(classifier))
    result = measure_groups(classifier.name, texts.labels, probabilities, texts.groups)
    return _Named(result, texts.classes)


def _measures(named: _Named) -> dict[str, Interval]:
    return with_class_names(named.result.measures, named.classes)


def _compare_classes(after: _Named, before: _Named) -> dict[str, Comparison]:
    return with_class_names(compare_classes(after.result, before.result), after.classes)


def _compare_groups(after: _Named, before: _Named) -> dict[str, Comparison]:
    return with_class_names(compare_groups(after.result, before.result), after.classes)


def _measure_templates(classifier: Any, asked: ClassTemplates) -> _Named:
    gaps = measure_class_gaps(classifier.class_log_probs, asked.templates)
    return _Named(gaps, asked.classes)


def _measures_of_templates(named: _Named) -> dict[str, Interval]:
    return with_class_names(measures_of_slots(named.result), named.classes)


def _compare_templates(after: _Named, before: _Named) -> dict[str, Comparison]:
    return with_class_names(compare_class_gaps(after.result, before.result), after.classes)


def with_class_names(values: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    """Name classes instead of numbering them.

        with_class_names({"recall.1": x, "recall.1.gap": y}, ("no", "yes"))
        ->  {"recall.yes": x, "recall.yes.gap": y}

    Args:
      values: by the metric's name.
      classes: the names.
    """

    def with_name(match: re.Match) -> str:
        return f"{match[1]}{classes[int(match[2])]}"

    return {OF_CLASS.sub(with_name, name): value for name, value in values.items()}


def _items_of_classes(named: _Named) -> Iterator[dict[str, Any]]:
    found = named.result
    for index, label in enumerate(found.labels.tolist()):
        yield {
            "label": named.classes[label],
            "right": bool(found.correct[index]),
            "confidence": float(found.confidences[index]),
        }


def _items_of_groups(named: _Named) -> Iterator[dict[str, Any]]:
    found = named.result
    columns = zip(found.groups, found.labels.tolist(), found.predictions.tolist(), strict=True)
    for group, label, predicted in columns:
        classes = named.classes
        yield {"group": group, "label": classes[label], "predicted": classes[predicted]}


def _items_of_templates(named: _Named) -> Iterator[dict[str, Any]]:
    for item in items_of_slots(named.result):
        differences = dict(zip(named.classes, item["differences"], strict=True))
        yield item | {"differences": differences}


CLASSIFIER_TASKS = {
    "classes": BiasTask(
        _measure_classes, _measures, _compare_classes, _items_of_classes, better=("accuracy",)
    ),
    "groups": BiasTask(_measure_groups, _measures, _compare_groups, _items_of_groups),
    "seat": SEAT,
    "templates": BiasTask(
        _measure_templates, _measures_of_templates, _compare_templates, _items_of_templates
    ),
}
