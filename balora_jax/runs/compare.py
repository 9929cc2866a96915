"""Methods side by side: the same run for every method and seed, and one table of what came out."""

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

Results = dict[str, list[dict[str, float]]]


def compare(
    out: str,
    methods: Sequence[str],
    seeds: Sequence[int],
    rates: Sequence[float],
    run: Sequence[str],
    console: Console | None = None,
) -> pathlib.Path:
    """Runs what is missing and writes comparison.md and comparison.json; returns the former's path.

    Args:
      out: a folder for the runs and the table; what is finished there already is not run again.
      methods: each gets the same runs; `METHOD@RATE` has its learning rate from an earlier search and tries no other.
      seeds: training.seed of a method's runs.
      rates: each method first tries each of these learning rates with the first seed, and goes on with the one that
        did best on the held-out set; with none, the configuration's own.
      run: the arguments of `balora train` that all runs share.
      console: where progress goes.

    Raises:
      BadInput: a method or rate is none, the configuration cannot be used, or a folder of a run holds another run.
    """
    console, folder = console or Console(), pathlib.Path(out).expanduser()
    wanted = {text: _method_and_rates(text, rates) for text in methods}
    if (
        len(rates) > 1
        and not _configure(run, folder, wanted[methods[0]][0], seeds[0], None).data.holds_out
    ):
        raise BadInput(
            "--learning_rates are judged on the held-out set, and data.eval is null; accepted: a set there"
        )
    results: Results = {}
    searched: dict[str, dict[float, float]] = {}
    for method, own_rates in wanted.values():
        tried = {
            rate: _summary(_configure(run, folder, method, seeds[0], rate), console).score
            for rate in own_rates
        }
        rate = max(tried, key=tried.__getitem__) if tried else None
        if len(tried) > 1:
            searched[method] = tried
        configs = [_configure(run, folder, method, seed, rate) for seed in seeds]
        results[_title(method, rate)] = [_columns(_summary(config, console)) for config in configs]
    write_whole(folder / "comparison.json", json.dumps(results, indent=2) + "\n")
    write_whole(folder / "comparison.md", table(results) + _search_table(searched))
    return folder / "comparison.md"


def table(results: Results) -> str:
    """A Markdown table: a row for each method and one for the model as it was, mean ± deviation over the seeds."""
    names = list(dict.fromkeys(name for runs in results.values() for run in runs for name in run))
    before = {name: name.removesuffix(" before") for name in names if name.endswith(" before")}
    shown = [name for name in names if name not in before]
    rows = {
        title: [_cell([run[name] for run in runs if name in run]) for name in shown]
        for title, runs in results.items()
    }
    if before:
        first = next(iter(results.values()))
        start = {after: _cell([run[name] for run in first]) for name, after in before.items()}
        rows = {"before": [start.get(name, "") for name in shown]} | rows
    lines = [["", *(name.replace("_", " ") for name in shown)], ["---"] * (len(shown) + 1)]
    return _markdown([*lines, *([title, *cells] for title, cells in rows.items())])


def _search_table(searched: dict[str, dict[float, float]]) -> str:
    """Each method's held-out score at each rate that it tried with the first seed; nothing without a search."""
    if not searched:
        return ""
    rates = list(next(iter(searched.values())))
    lines = [
        ["score, first seed", *(f"rate {rate:g}" for rate in rates)],
        ["---"] * (len(rates) + 1),
    ]
    lines += [
        [method, *(f"{tried[rate]:.3f}" for rate in rates)] for method, tried in searched.items()
    ]
    return "\n" + _markdown(lines)


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _method_and_rates(text: str, rates: Sequence[float]) -> tuple[str, Sequence[float]]:
    method, at, rate = text.partition("@")
    accepted = f"accepted: {', '.join(get_args(Method))}, each alone or as METHOD@RATE with a learning rate"
    if method not in get_args(Method):
        raise BadInput(f"--methods has {text!r}; {accepted}")
    try:
        return method, [float(rate)] if at else rates
    except ValueError:
        raise BadInput(
            f"--methods has {text!r}, and {rate!r} is not a number; {accepted}"
        ) from None


def _cell(values: Sequence[float]) -> str:
    if not values:
        return ""
    # The sample's deviation: seeds are draws.
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    mean = statistics.mean(values)
    digits = 0 if abs(mean) >= 100 else 3
    return f"{mean:.{digits}f}" + (f" ± {spread:.{digits}f}" if spread else "")


def _configure(
    run: Sequence[str], out: pathlib.Path, method: str, seed: int, rate: float | None
) -> RunConfig:
    name = "-".join([method, *([] if rate is None else [f"lr{rate:g}"]), f"seed{seed}"])
    given = {
        "method": method,
        "training.seed": seed,
        "output.dir": out / name,
        "output.resume": "true",
    }
    given |= {} if rate is None else {"optimizer.learning_rate": rate}
    return read_config(
        [*run, *(text for key, value in given.items() for text in (f"--{key}", str(value)))]
    )


def _summary(config: RunConfig, console: Console) -> Summary:
    """The outcome of a run; one that is finished is read, not run again."""
    folder = RunFolder(config.output.dir)
    if folder.check(config) and folder.summary.is_file():
        return Summary.of_json(json.loads(folder.summary.read_text()))
    console.rule(folder.path.name)
    summary = finetune(config, console)
    if summary is None:
        raise KeyboardInterrupt
    return summary


def _columns(summary: Summary) -> dict[str, float]:
    """The table's columns of one run; `<name> before` for a measure of the start as well."""
    columns = {}
    if summary.eval_loss_last is not None:
        columns["held-out loss"] = summary.eval_loss_last
        columns["held-out loss before"] = summary.eval_loss_first
    for name, (before, after) in summary.probes.items():
        columns[name] = after
        columns[f"{name} before"] = before
    return columns | summary.metrics | summary.metrics_ood | {"seconds": summary.seconds}


def _title(method: str, rate: float | None) -> str:
    return method if rate is None else f"{method}, rate {rate:g}"
