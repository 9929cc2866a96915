"""The results of an evaluation: results.json, and the table."""

import itertools
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from balora_jax.errors import BadInput, listed
from balora_jax.evaluation.results import Measured, Metric, TaskResult
from balora_jax.evaluation.statistics import Interval
from balora_jax.reporting.console import plain_console
from balora_jax.runs.results_files import WRITTEN_BY, check_replaceable
from balora_jax.training.replacing import write_whole

RESULTS = "results.json"
WRITER = "balora evaluate"
# The files that the evaluators write besides.
SAMPLES = ("samples-*.jsonl", "evalplus-*.jsonl")
WIDEST = 400


class Evaluation(NamedTuple):
    """An evaluation, before anything of it is written.

    Attributes:
      fingerprints: of each model, by its name.
      results: of all tasks.
      files: the content of each file of samples, by its name.
    """

    fingerprints: dict[str, str]
    results: list[TaskResult]
    files: dict[str, str]


def check_folder(folder: pathlib.Path) -> None:
    """Check that no file in a folder of results is another's that would be replaced.

    Args:
      folder: which need not exist.

    Raises:
      BadInput: results.json is not ours, or a file of samples is not named there.
    """
    check_replaceable(folder / RESULTS, WRITER)
    present = sorted(path.name for ending in SAMPLES for path in folder.glob(ending))
    written = _read(folder / RESULTS).get("files")
    foreign = set(present) - set(written if isinstance(written, list) else [])
    if foreign:
        raise BadInput(
            f"{folder} holds {listed(sorted(foreign))}, which no evaluation there has written, and "
            "which may be replaced; accepted: --out with another folder, or move that away"
        )


def report(evaluation: Evaluation, folder: pathlib.Path, console: Console) -> pathlib.Path:
    """Write samples and results.json, and print the table.

    Args:
      evaluation: from one of the evaluators.
      folder: where to write.
      console: where to print.

    Returns:
      The path of results.json.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / RESULTS
    earlier = _earlier(path, evaluation.fingerprints, console)
    tasks = [result.to_json() for result in evaluation.results]
    names = {task["task"] for task in tasks}
    tasks += [task for task in earlier.get("tasks", []) if task["task"] not in names]
    content = {
        WRITTEN_BY: WRITER,
        "models": evaluation.fingerprints,
        "files": sorted({*earlier.get("files", []), *evaluation.files}),
        "tasks": tasks,
    }
    write_whole(path, json.dumps(content, indent=2) + "\n")
    for name, text in evaluation.files.items():
        write_whole(folder / name, text)
    # A file is as wide as the table.
    wide = console if console.is_terminal else plain_console(file=console.file, width=WIDEST)
    wide.print(_table(evaluation.results), soft_wrap=True)
    return path


def _read(path: pathlib.Path) -> dict[str, Any]:
    """The content of results.json; {} where there is none that can be read."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _earlier(path: pathlib.Path, models: Mapping[str, str], console: Console) -> dict[str, Any]:
    """The earlier results on the same models; a file that is no such is set aside."""
    content = _read(path)
    tasks = content.get("tasks")
    is_whole = isinstance(tasks, list) and isinstance(content.get("files"), list)
    if is_whole and content.get("models") == models and all(map(_has_name, tasks)):
        return content
    if path.is_file():
        places = (path.with_name(f"results-{number}.json") for number in itertools.count(1))
        aside = next(place for place in places if not place.exists())
        path.rename(aside)
        console.print(
            f"the results of other models are now in {aside}", highlight=False, soft_wrap=True
        )
    return {}


def _has_name(task: Any) -> bool:
    return isinstance(task, dict) and isinstance(task.get("task"), str)


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
