"""The results of an evaluation: results.json, and the table."""

import itertools
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from balora_jax.evaluation.results import Measured, Metric, TaskResult
from balora_jax.evaluation.statistics import Interval
from balora_jax.reporting.console import plain_console
from balora_jax.runs.results_files import WRITTEN_BY
from balora_jax.training.replacing import write_whole

RESULTS = "results.json"
WRITER = "balora evaluate"
WIDEST = 400


def report(
    fingerprints: Mapping[str, str],
    results: Sequence[TaskResult],
    folder: pathlib.Path,
    console: Console,
) -> pathlib.Path:
    """Write results.json and print the table.

    Args:
      fingerprints: of each model, by its name.
      results: of all tasks.
      folder: where to write.
      console: where to print.

    Returns:
      The path of results.json.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / RESULTS
    tasks = [result.to_json() for result in results]
    names = {task["task"] for task in tasks}
    tasks += [task for task in _earlier(path, fingerprints, console) if task["task"] not in names]
    content = {WRITTEN_BY: WRITER, "models": fingerprints, "tasks": tasks}
    write_whole(path, json.dumps(content, indent=2) + "\n")
    # A file is as wide as the table.
    wide = console if console.is_terminal else plain_console(file=console.file, width=WIDEST)
    wide.print(_table(results), soft_wrap=True)
    return path


def _earlier(path: pathlib.Path, models: Mapping[str, str], console: Console) -> list[Any]:
    """The results of other tasks in the file; a file on other models is set aside."""
    if not path.is_file():
        return []
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["models"] == models:
            return [task for task in content["tasks"] if isinstance(task["task"], str)]
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    numbers = itertools.count(1)
    places = (path.with_name(f"results-{number}.json") for number in numbers)
    aside = next(place for place in places if not place.exists())
    path.rename(aside)
    console.print(
        f"the results of other models are now in {aside}", highlight=False, soft_wrap=True
    )
    return []


def _table(results: Sequence[TaskResult]) -> Table:
    """The metrics of all tasks, a line each."""
    models = list(results[0].metrics[0].models) if results and results[0].metrics else []
    table = Table(box=None, pad_edge=False)
    for title in ("task", "metric", "n"):
        table.add_column(title, overflow="fold")
    for title in models:
        table.add_column(title, justify="right")
    if len(models) > 1:
        table.add_column("difference (95 %)", justify="right")
    for result in results:
        for metric in result.metrics:
            arrow = {True: " ↑", False: " ↓", None: ""}[metric.higher_is_better]
            values = [_shown(metric.models[model]) for model in models]
            difference = [_difference(metric.difference)] if len(models) > 1 else []
            name = f"{metric.name}{arrow}"
            table.add_row(result.task, name, str(_items(metric, result)), *values, *difference)
    return table


def _items(metric: Metric, result: TaskResult) -> int:
    """The items that a metric is of, of which a task may have more."""
    first = next(iter(metric.models.values()))
    return result.examples if first.interval is None else first.interval.items


def _shown(measured: Measured) -> str:
    """A value with its standard error or its interval."""
    if measured.interval is not None:
        return measured.interval.text()
    stderr = "" if measured.stderr is None else f" ± {measured.stderr:.3f}"
    return f"{measured.value:.3f}{stderr}"


def _difference(interval: Interval | None) -> str:
    return "" if interval is None else interval.text(sign=True)
