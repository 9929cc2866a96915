"""A comparison of methods: the same run for each method and seed, and one table of the results."""

import json
import pathlib
import statistics
from collections.abc import Sequence
from typing import get_args

from rich.console import Console

from balora_jax.config import Method, RunConfig
from balora_jax.config.parse import read_config
from balora_jax.errors import BadInput
from balora_jax.runs.finetune import finetune
from balora_jax.training.run_folder import RunFolder, write_whole
from balora_jax.training.summary import Summary

# A row's title (method and learning rate) -> {column: value} of each of its runs.
Results = dict[str, list[dict[str, float]]]
# A method -> {learning rate: held-out score with the first seed}.
Searches = dict[str, dict[float, float]]
# The ending of a column that holds a measure of the model before fine-tuning.
BEFORE = " before"


def compare(
    out: str,
    methods: Sequence[str],
    seeds: Sequence[int],
    rates: Sequence[float],
    run: Sequence[str],
    console: Console | None = None,
) -> pathlib.Path:
    """Run every method with every seed, and write comparison.md and comparison.json.

    Args:
      out: the folder for the runs and the table. Runs that are finished there are not repeated.
      methods: the methods to compare. `METHOD@RATE` fixes the learning rate of that method, for
        example one found by an earlier search.
      seeds: the values of training.seed.
      rates: learning rates to search. Each method tries all of them with the first seed, and uses
        the one with the best held-out score for all seeds. Empty for the configured rate.
      run: the arguments of `balora train` that all runs share.
      console: where to print progress; standard output by default.

    Returns:
      The path of comparison.md.

    Raises:
      BadInput: a method or rate does not exist, the configuration cannot be used, or the folder of
        a run holds another run.
    """
    console = console or Console()
    folder = pathlib.Path(out).expanduser()
    candidates = {text: _parse_method(text, rates) for text in methods}
    if len(rates) > 1:
        first_method, _ = candidates[methods[0]]
        _require_held_out_set(_configure(run, folder, first_method, seeds[0], None))

    results: Results = {}
    searches: Searches = {}
    for method, method_rates in candidates.values():
        scores = {}
        for rate in method_rates:
            config = _configure(run, folder, method, seeds[0], rate)
            scores[rate] = _run_or_read(config, console).score
        if len(scores) > 1:
            searches[method] = scores
        best_rate = max(scores, key=scores.__getitem__) if scores else None

        configs = [_configure(run, folder, method, seed, best_rate) for seed in seeds]
        runs = [_columns(_run_or_read(config, console)) for config in configs]
        results[_title(method, best_rate)] = runs

    write_whole(folder / "comparison.json", json.dumps(results, indent=2) + "\n")
    write_whole(folder / "comparison.md", table(results) + _search_table(searches))
    return folder / "comparison.md"


def table(results: Results) -> str:
    """Format results as a Markdown table of means ± standard deviations over the seeds.

    Args:
      results: the columns of every run. A column `<name> before` goes into the row of the model
        before fine-tuning, which is taken from the first method's runs.

    Returns:
      The table, with a row for each method.
    """
    names = list(dict.fromkeys(name for runs in results.values() for run in runs for name in run))
    columns = [name for name in names if not name.endswith(BEFORE)]
    header = ["", *(name.replace("_", " ") for name in columns)]
    rows = []
    if len(columns) < len(names):
        first_runs = next(iter(results.values()))
        rows.append(["before", *(_mean(first_runs, name + BEFORE) for name in columns)])
    for title, runs in results.items():
        rows.append([title, *(_mean(runs, name) for name in columns)])
    return _markdown(header, rows)


def _search_table(searches: Searches) -> str:
    """The held-out score of each method at each learning rate tried; empty without a search."""
    if not searches:
        return ""
    rates = list(next(iter(searches.values())))
    header = ["score, first seed", *(f"rate {rate:g}" for rate in rates)]
    rows = [
        [method, *(f"{scores[rate]:.3f}" for rate in rates)] for method, scores in searches.items()
    ]
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


def _require_held_out_set(config: RunConfig) -> None:
    if not config.data.holds_out:
        raise BadInput(
            "--learning_rates are judged on the held-out set, and data.eval is null; "
            "accepted: a set there"
        )


def _mean(runs: Sequence[dict[str, float]], name: str) -> str:
    """The mean ± standard deviation of a column; empty where no run has it."""
    values = [run[name] for run in runs if name in run]
    if not values:
        return ""
    mean = statistics.mean(values)
    # The sample standard deviation: the seeds are a sample.
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    digits = 0 if abs(mean) >= 100 else 3
    text = f"{mean:.{digits}f}"
    if deviation:
        text += f" ± {deviation:.{digits}f}"
    return text


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


def _run_or_read(config: RunConfig, console: Console) -> Summary:
    """Run a configuration and return its summary, or read the summary if the run is finished."""
    folder = RunFolder(config.output.dir)
    if folder.check(config) and folder.summary.is_file():
        return Summary.of_json(json.loads(folder.summary.read_text()))
    console.rule(folder.path.name)
    summary = finetune(config, console)
    if summary is None:
        raise KeyboardInterrupt
    return summary


def _columns(summary: Summary) -> dict[str, float]:
    """The table's columns of one run; `<name> before` for a measure before fine-tuning."""
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
