"""A comparison of methods: the same run for each method and seed, and one table of the results."""

import json
import math
import pathlib
import statistics
from collections.abc import Sequence
from typing import get_args

from rich.console import Console
from rich.table import Table

from balora_jax.config import Method, RunConfig
from balora_jax.config.parse import read_config
from balora_jax.errors import BadInput, Diverged, reason_of
from balora_jax.reporting.console import plain_console
from balora_jax.runs.finetune import finetune
from balora_jax.training.replacing import write_whole
from balora_jax.training.run_folder import RunFolder
from balora_jax.training.summary import Summary

# A row's title (method and learning rate) -> {column: value} of each of its runs; None for a run
# that diverged.
Results = dict[str, list[dict[str, float] | None]]
# A method -> {learning rate: held-out score with the first seed}; None if that run diverged.
Searches = dict[str, dict[float, float | None]]
# The ending of a column that holds a measure of the model before fine-tuning.
BEFORE = " before"
# The entry of a run that diverged, and the file in its folder that says so.
DIVERGED = "diverged"
DIVERGED_FILE = "diverged.json"
# Columns of the table where it is printed to no terminal.
WIDEST = 200
# The results, for programs and for people.
TABLES = ("comparison.json", "comparison.md")


def compare(
    out: str,
    methods: Sequence[str],
    seeds: Sequence[int],
    rates: Sequence[float],
    run: Sequence[str],
    console: Console | None = None,
) -> pathlib.Path:
    """Run every method with every seed, and write comparison.md and comparison.json.

    A run whose loss is not finite is entered as diverged, and the comparison goes on.

    Args:
      out: the folder for the runs and the table. Runs that are finished there are not repeated.
      methods: the methods to compare. `METHOD@RATE` fixes the learning rate of that method, for
        example one found by an earlier search.
      seeds: the values of training.seed.
      rates: learning rates to search. Each method tries all of them with the first seed, and uses
        the one with the best held-out score for all seeds; one that diverges is never used. Empty
        for the configured rate.
      run: the arguments of `balora train` that all runs share.
      console: where to print progress; standard output by default.

    Returns:
      The path of comparison.md.

    Raises:
      BadInput: a method or rate does not exist, the configuration cannot be used, or the folder of
        a run holds another run.
    """
    _require_different_seeds(seeds)
    _require_different_methods(methods)
    _require_different_rates(rates)
    console = console or plain_console()
    folder = pathlib.Path(out).expanduser()
    for name in TABLES:
        if (folder / name).exists() and not (folder / name).is_file():
            raise BadInput(f"{folder / name} is no file; accepted: --out without it")
    candidates = {text: _parse_method(text, rates) for text in methods}
    if len(rates) > 1:
        first_method, _ = candidates[methods[0]]
        _require_held_out_set(_configure(run, folder, first_method, seeds[0], None))

    results: Results = {}
    searches: Searches = {}
    for method, method_rates in candidates.values():
        rate = method_rates[0] if method_rates else None
        if len(method_rates) > 1:
            searches[method] = {}
            for tried in method_rates:
                config = _configure(run, folder, method, seeds[0], tried)
                searches[method][tried] = _score(_run_or_read(config, console))
            rate = _best(searches[method])
            if rate is None:
                results[f"{method}, every rate"] = [None] * len(seeds)
                continue

        configs = [_configure(run, folder, method, seed, rate) for seed in seeds]
        runs = [_columns(_run_or_read(config, console)) for config in configs]
        results[_title(method, rate)] = runs

    numbers, text = (folder / name for name in TABLES)
    write_whole(numbers, json.dumps(results, indent=2) + "\n")
    write_whole(text, table(results) + _search_table(searches))
    wide = console if console.is_terminal else plain_console(file=console.file, width=WIDEST)
    wide.print(_on_screen(results))
    wide.print(_search_table(searches), highlight=False)
    return text


def table(results: Results) -> str:
    """Format results as a Markdown table of means ± standard deviations over the seeds.

    Args:
      results: the columns of every run. A column `<name> before` goes into the row of the model
        before fine-tuning, which is taken from the first method that has them.

    Returns:
      The table, with a row for each method. A method's means are those of its runs that have not
      diverged, and its title says how many have.
    """
    return _markdown(*_cells(results))


def _on_screen(results: Results) -> Table:
    """The same table with a column for each method, which fits a terminal."""
    header, rows = _cells(results)
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for title, *_ in rows:
        table.add_column(title, justify="right")
    for name, *values in list(zip(header, *rows, strict=True))[1:]:
        table.add_row(name, *values)
    return table


def _cells(results: Results) -> tuple[list[str], list[list[str]]]:
    """The header of the table, and a row for each method."""
    finished = {title: [run for run in runs if run is not None] for title, runs in results.items()}
    names = list(dict.fromkeys(name for runs in finished.values() for run in runs for name in run))
    columns = [name for name in names if not name.endswith(BEFORE)]
    header = ["", *(name.replace("_", " ") for name in columns or ["result"])]
    rows = []
    if len(columns) < len(names):
        first_runs = next(runs for runs in finished.values() if runs)
        rows.append(["before", *(_mean(first_runs, name + BEFORE) for name in columns)])
    for title, runs in finished.items():
        lost = len(results[title]) - len(runs)
        if not runs:
            rows.append([title, *[DIVERGED] * (len(header) - 1)])
            continue
        note = f" ({lost} of {len(results[title])} {DIVERGED})" if lost else ""
        rows.append([title + note, *(_mean(runs, name) for name in columns)])
    return header, rows


def _search_table(searches: Searches) -> str:
    """The held-out score of each method at each learning rate tried; empty without a search."""
    if not searches:
        return ""
    rates = list(next(iter(searches.values())))
    header = ["score, first seed", *(f"rate {rate:g}" for rate in rates)]
    rows = []
    for method, scores in searches.items():
        texts = [DIVERGED if scores[rate] is None else _number(scores[rate]) for rate in rates]
        rows.append([method, *texts])
    return "\n" + _markdown(header, rows)


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _parse_method(text: str, rates: Sequence[float]) -> tuple[str, Sequence[float]]:
    """Split METHOD or METHOD@RATE into the method and the learning rates that it tries."""
    method, separator, rate = text.partition("@")
    names = ", ".join(get_args(Method))
    accepted = f"accepted: {names}, each alone or as METHOD@RATE with a learning rate"
    if method not in get_args(Method):
        raise BadInput(f"--methods has {text!r}; {accepted}")
    if not separator:
        return method, rates
    try:
        return method, [float(rate)]
    except ValueError:
        raise BadInput(
            f"--methods has {text!r}, and {rate!r} is not a number; {accepted}"
        ) from None


def _require_different_seeds(seeds: Sequence[int]) -> None:
    twice = next((seed for seed in seeds if seeds.count(seed) > 1), None)
    if twice is not None:
        raise BadInput(f"--seeds has {twice} twice; accepted: different whole numbers")


def _require_different_methods(methods: Sequence[str]) -> None:
    """Check that each method has a folder of its own; its name has six digits of the rate."""
    seen = {}
    for text in methods:
        method, _, rate = text.partition("@")
        try:
            name = f"{method}@{float(rate):g}" if rate else method
        except ValueError:
            continue
        if name in seen:
            raise BadInput(
                f"--methods has {seen[name]!r} and {text!r}; "
                "accepted: different methods or rates, by their first six digits"
            )
        seen[name] = text


def _require_different_rates(rates: Sequence[float]) -> None:
    """Check that each rate has a folder of its own."""
    names = [f"{rate:g}" for rate in rates]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise BadInput(
            f"--learning_rates has {twice} twice; accepted: different rates, by six digits"
        )


def _require_held_out_set(config: RunConfig) -> None:
    if not config.data.holds_out:
        raise BadInput(
            "--learning_rates are judged on the held-out set, and data.eval is null; "
            "accepted: a set there"
        )


def _score(summary: Summary | None) -> float | None:
    """The held-out score of a run; None if it diverged."""
    return None if summary is None else summary.score


def _best(scores: dict[float, float | None]) -> float | None:
    """The learning rate with the best score; None if every rate diverged."""
    finished = {rate: score for rate, score in scores.items() if score is not None}
    return max(finished, key=finished.__getitem__, default=None)


def _mean(runs: Sequence[dict[str, float]], name: str) -> str:
    """The mean ± standard deviation of a column; empty where no run has it."""
    values = [run[name] for run in runs if name in run]
    if not values:
        return ""
    mean = statistics.mean(values)
    # The sample standard deviation: the seeds are a sample.
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    text = _number(mean)
    if deviation:
        text += f" ± {_number(deviation, beside=mean)}"
    return text


def _number(value: float, beside: float | None = None) -> str:
    """A number with the digits that a table needs, or with as many as the one that it is beside."""
    size = abs(value if beside is None else beside)
    if size >= 1e6:
        return f"{value:.3e}"
    return f"{value:.0f}" if size >= 100 else f"{value:.3f}"


def _configure(
    run: Sequence[str], out: pathlib.Path, method: str, seed: int, rate: float | None
) -> RunConfig:
    """The configuration of one run; a rate of None leaves the configured learning rate."""
    options = {"method": method, "training.seed": seed}
    name = [method]
    if rate is not None:
        name.append(f"lr{rate:g}")
        options["optimizer.learning_rate"] = rate
    name.append(f"seed{seed}")
    options["output.dir"] = out / "-".join(name)
    options["output.resume"] = "true"

    arguments = list(run)
    for option, value in options.items():
        arguments += [f"--{option}", str(value)]
    return read_config(arguments)


def _run_or_read(config: RunConfig, console: Console) -> Summary | None:
    """Run a configuration, or read the outcome if the run has ended.

    Returns:
      The summary; None if the run diverged.
    """
    folder = RunFolder(config.output.dir)
    noted = folder.path / DIVERGED_FILE
    resumes = folder.check(config)
    summary = _read_summary(folder, console) if resumes else None
    if summary is None and resumes and noted.is_file():
        console.print(f"{folder.path.name} diverged; to run it again, delete {noted}")
        return None
    if summary is None:
        console.rule(folder.path.name)
        try:
            result = finetune(config, console)
        except Diverged as error:
            console.print(f"{folder.path.name} diverged: {error}", highlight=False)
            write_whole(noted, json.dumps({"message": str(error)}) + "\n")
            return None
        if result is None:
            raise KeyboardInterrupt
        summary = result.summary
    # The measures of a model whose numbers have overflowed after the last finite loss.
    if summary.score is not None and not math.isfinite(summary.score):
        return None
    return summary


def _read_summary(folder: RunFolder, console: Console) -> Summary | None:
    """The summary of a finished run; None if there is none, or a damaged one."""
    if not folder.summary.is_file():
        return None
    try:
        summary = Summary.of_json(json.loads(folder.summary.read_text()))
        scores = [] if summary.score is None else [summary.score]
        for value in [*_columns(summary).values(), *scores]:
            if not isinstance(value, int | float):
                raise TypeError(f"{str(value)[:50]!r} is no number")
            float(value)
    except (OSError, ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        console.print(
            f"{folder.summary} is damaged ({reason_of(error)}); that run is finished again",
            highlight=False,
        )
        return None
    return summary


def _columns(summary: Summary | None) -> dict[str, float] | None:
    """The table's columns of one run; `<name> before` for a measure before fine-tuning.

    None for a run that diverged.
    """
    if summary is None:
        return None
    columns = {}
    if summary.eval_loss_last is not None:
        columns["held-out loss"] = summary.eval_loss_last
        columns["held-out loss" + BEFORE] = summary.eval_loss_first
    for name, (before, after) in summary.probes.items():
        columns[name] = after
        columns[name + BEFORE] = before
    return columns | summary.metrics | summary.metrics_ood | {"seconds": summary.seconds}


def _title(method: str, rate: float | None) -> str:
    return method if rate is None else f"{method}, rate {rate:g}"
