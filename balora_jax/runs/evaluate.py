"""An evaluation: tasks asked of a run's model and its base, and one table of the results."""

import importlib.util
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from balora_jax.config.evaluate import EvaluateOptions
from balora_jax.errors import BadInput
from balora_jax.runs.language_models import Subject, of_model, of_run
from balora_jax.training.replacing import write_whole
from balora_jax.training.run_folder import RunFolder

RESULTS = "results.json"


def evaluate(options: EvaluateOptions, console: Console | None = None) -> pathlib.Path:
    """Evaluate a model on tasks, and write results.json, samples and the answers.

    Args:
      options: the model, the tasks and the settings.
      console: where to print; standard output by default.

    Returns:
      The path of results.json.

    Raises:
      BadInput: a task is unknown or its data is not here, or the model cannot be used.
    """
    console = console or Console()
    _require_lm_eval()
    from balora_jax.evaluation.harness.results import collect, sample_lines
    from balora_jax.evaluation.harness.tasks import load_tasks

    folder = _folder(options)
    data_dir = None if options.data_dir is None else pathlib.Path(options.data_dir).expanduser()
    tasks = load_tasks(options.names, data_dir, options.fewshot)
    subjects = _subjects(options, console)
    folder.mkdir(parents=True, exist_ok=True)
    found = {
        subject.language_model.name: _ask(subject, tasks, options, folder, console)
        for subject in subjects
    }
    results = collect(found, tasks.sources)
    for model, result in found.items():
        for task, samples in result["samples"].items():
            write_whole(folder / f"samples-{model}-{task}.jsonl", "".join(sample_lines(samples)))
    path = folder / RESULTS
    content = {
        "models": {subject.language_model.name: subject.fingerprint for subject in subjects},
        "tasks": [result.to_json() for result in results],
    }
    write_whole(path, json.dumps(content, indent=2) + "\n")
    console.print(_table(results))
    return path


def _require_lm_eval() -> None:
    if importlib.util.find_spec("lm_eval") is None:
        raise BadInput(
            "evaluate needs the package lm-eval, which is not installed; "
            'accepted: pip install "balora-jax[eval]"'
        )
    # Its own bars; this command shows one for everything.
    os.environ.setdefault("TQDM_DISABLE", "1")


def _folder(options: EvaluateOptions) -> pathlib.Path:
    if options.out is not None:
        return pathlib.Path(options.out).expanduser()
    return RunFolder(options.run).path / "evaluation"


def _subjects(options: EvaluateOptions, console: Console) -> list[Subject]:
    if options.model is not None:
        return of_model(options.model, batch_tokens=options.batch_tokens)
    return of_run(
        options.run,
        options.checkpoint,
        baseline=options.baseline,
        batch_tokens=options.batch_tokens,
        console=console,
    )


def _ask(
    subject: Subject, tasks: Any, options: EvaluateOptions, folder: pathlib.Path, console: Console
) -> dict[str, Any]:
    """Ask one model all tasks."""
    from balora_jax.evaluation.harness.model import HarnessModel
    from balora_jax.evaluation.harness.responses import Responses
    from balora_jax.evaluation.harness.tasks import run_tasks

    name = subject.language_model.name
    bar = Progress(
        TextColumn(name),
        MofNCompleteColumn(),
        BarColumn(bar_width=28),
        TimeRemainingColumn(),
        TextColumn("left"),
        console=console,
        disable=not console.is_terminal,
    )
    with Responses(folder / f"answers-{name}.jsonl", subject.fingerprint) as responses, bar:
        shown = bar.add_task("", total=None)
        model = HarnessModel(
            subject.language_model,
            responses,
            begin=lambda total: bar.update(shown, total=(bar.tasks[0].total or 0) + total),
            show=lambda count: bar.advance(shown, count),
            seed=options.seed,
        )
        return run_tasks(
            tasks, model, limit=options.limit, fewshot=options.fewshot, chat=options.chat
        )


def _table(results: Sequence[Any]) -> Table:
    """The metrics of all tasks, a line each."""
    models = list(results[0].metrics[0].models) if results and results[0].metrics else []
    table = Table(box=None, pad_edge=False)
    for title in ("task", "metric", "n"):
        table.add_column(title)
    for title in models:
        table.add_column(title, justify="right")
    if len(models) > 1:
        table.add_column("difference, 95 %", justify="right")
    for result in results:
        for metric in result.metrics:
            arrow = {True: " ↑", False: " ↓", None: ""}[metric.higher_is_better]
            values = [_shown(metric.models[model]) for model in models]
            difference = [_difference(metric.difference)] if len(models) > 1 else []
            name = f"{metric.name}{arrow}"
            table.add_row(result.task, name, str(result.examples), *values, *difference)
    return table


def _shown(measured: Any) -> str:
    stderr = "" if measured.stderr is None else f" ± {measured.stderr:.4f}"
    return f"{measured.value:.4f}{stderr}"


def _difference(interval: Any) -> str:
    if interval is None:
        return ""
    return f"{interval.value:+.4f} ({interval.low:+.4f} to {interval.high:+.4f})"
