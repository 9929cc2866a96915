"""Terminal output of a run: its first screen, the command to resume it, its results."""

import contextlib
import shlex
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from balora_jax.config import RunConfig
from balora_jax.config.plugins import OPTION, PluginFile
from balora_jax.evaluation.tiny_world import TITLES
from balora_jax.reporting.inactive_terms import inactive_terms, negligible
from balora_jax.training.bucket import as_named
from balora_jax.training.compiled_step import CompiledStep
from balora_jax.training.run_folder import RunFolder
from balora_jax.training.setup import Student
from balora_jax.training.state import TrainState, count
from balora_jax.training.summary import History, Summary


def plain_console(**options: Any) -> Console:
    """Make a console that prints texts as they are: names in brackets are no styles, :x: no emoji.

    Args:
      **options: of rich's Console.
    """
    return Console(markup=False, emoji=False, **options)


@contextlib.contextmanager
def phase(console: Console, doing: str) -> Iterator[None]:
    """Say what a run is doing, which may take long: on a terminal while it does, else in a line.

    Args:
      console: where to print.
      doing: what it is, such as `compiling the update`.
    """
    if console.is_terminal:
        with console.status(doing):
            yield
        return
    console.print(f"{doing} ...", highlight=False)
    yield


def show_note(console: Console, sentence: str) -> None:
    """Print what was noticed, which does not stop a run.

    Args:
      console: where to print.
      sentence: what it is, and what becomes of it.
    """
    console.print(f"note: {sentence}", highlight=False, soft_wrap=True)


def show_start(
    console: Console,
    config: RunConfig,
    student: Student,
    state: TrainState,
    compiled: CompiledStep,
    *,
    start: int,
    steps: int,
    counted: int,
    layout: str,
) -> None:
    """Print the first screen: the model, the settings and the resources of a run, and notices.

    Args:
      console: where to print.
      config: the configuration of the run.
      student: the model and its frozen weights.
      state: the state before the next update.
      compiled: the compiled update.
      start: updates done before.
      steps: updates in the run.
      counted: the most tokens of an example that the loss counts.
      layout: the rows of an update's batch in words.
    """
    training = config.training
    spec = student.setup.spec
    trained = count(state.trainable)
    frozen = count(student.frozen.base)
    updates = f"{start:,} to {steps:,}, {training.batch_size} examples each"
    if training.accumulation > 1:
        updates += f" in {training.accumulation} micro-batches"
    mesh = " x ".join(f"{name} {size}" for name, size in student.setup.mesh.shape.items())
    rows = {
        "model": f"{config.model.source} ({config.model.task}, {config.model.dtype})",
        "method": config.method,
        "adapter": f"rank {spec.rank}, {config.adapter_init}, {config.adapter.form} form",
        "regularizers": weights_in_words(config),
        "parameters": f"{trained:,} trained, {frozen:,} frozen",
        "mesh": mesh,
        "memory": f"{compiled.bytes / 2**30:.2f} GiB a device, remat {compiled.setup.model.remat}",
        "steps": updates,
        "batches": layout,
        "precision": f"{training.precision} products, compiled in {compiled.seconds:.1f} s",
    }
    if config.method == "full":
        del rows["adapter"]
        del rows["regularizers"]
    console.print(_table(rows))
    for sentence in inactive_terms(config, student.setup, steps=steps, counted=counted):
        show_note(console, sentence)


def weights_in_words(config: RunConfig) -> str:
    """List the regularizers that act, with weight and schedule.

    The result looks like `svd 0.005 (two-phase), ...`; it is `none` if none acts.

    Args:
      config: the configuration of the run.
    """
    terms = config.acting_terms.items()
    listed = [f"{name} {section.weight:g} ({section.schedule})" for name, section in terms]
    return ", ".join(listed) or "none"


def show_stop(
    console: Console,
    folder: RunFolder,
    done: int,
    steps: int,
    plugins: Sequence[PluginFile] = (),
) -> None:
    """Print the command that resumes a stopped run.

    Args:
      console: where to print.
      folder: the run folder.
      done: updates done.
      steps: updates in the run.
      plugins: the plugin files of the run.
    """
    options = "".join(f" {OPTION} {shlex.quote(plugin.path)}" for plugin in plugins)
    # As the run was started: from a checkout, or by the installed command.
    command = "python train.py" if sys.argv[0].endswith("train.py") else "balora train"
    config = shlex.quote(as_named(folder.config))
    console.print(
        f"stopped after step {done} of {steps}; all is saved. Resume with:\n"
        f"  {command} --config {config} --output.resume{options}",
        highlight=False,
        soft_wrap=True,
    )


def show_end(
    console: Console,
    folder: RunFolder,
    history: History,
    summary: Summary,
    *,
    merged: bool,
) -> None:
    """Print the results of a run and the paths of its outputs.

    Args:
      console: where to print.
      folder: the run folder.
      history: the records of the run.
      summary: the results.
      merged: whether the run has written merged/; one that is there otherwise is older.
    """
    changes: dict[str, list[float | None]] = {"loss": [summary.loss_first, summary.loss_last]}
    if None not in (summary.eval_loss_first, summary.eval_loss_last):
        changes["held-out loss"] = [summary.eval_loss_first, summary.eval_loss_last]
    first = history.held_out[0].metrics if history.held_out else {}
    metrics = summary.metrics | summary.metrics_ood
    changes |= {name: [first.get(name), value] for name, value in metrics.items()}
    changes |= {TITLES[name]: values for name, values in summary.probes.items()}
    console.print(_changes(changes))
    for sentence in negligible(history.steps):
        show_note(console, sentence)

    rows = {
        "speed": _speed(summary),
        "time": _time(summary),
    }
    peaks = {
        "the host": summary.memory_host_peak,
        "a device": summary.memory_device_peak,
    }
    known = [f"{size / 2**30:.2f} GiB of {place}" for place, size in peaks.items() if size]
    if known:
        rows["memory"] = f"at most {', '.join(known)}"
    outputs = {
        "adapter": folder.adapter,
        **({"merged": folder.merged} if merged else {}),
        "plots": folder.plots,
        "predictions": folder.predictions,
    }
    rows |= {name: as_named(path) for name, path in outputs.items() if path.exists()}
    console.print(_table(rows))
    if not merged and folder.merged.exists():
        console.print(
            f"{as_named(folder.merged)} is of an earlier checkpoint; balora merge writes it again",
            highlight=False,
        )


def _speed(summary: Summary) -> str:
    """The speed of a run in words."""
    words = f"{summary.tokens_per_second:,.0f} tokens/s"
    if summary.counted_tokens_per_second is not None:
        words += f", of which the loss counts {summary.counted_tokens_per_second:,.0f}"
    if summary.utilization is not None:
        words += f"; {summary.utilization:.1%} of the devices' bfloat16 peak"
    return words


def _time(summary: Summary) -> str:
    """The time of a run in words, the longest parts first."""
    parts = sorted(summary.seconds_by_kind.items(), key=lambda part: -part[1])
    listed = ", ".join(f"{kind} {seconds:.0f}" for kind, seconds in parts if seconds >= 0.5)
    whole = f"{summary.seconds:.0f} s"
    return f"{whole} ({listed})" if listed else whole


def _changes(changes: dict[str, list[float | None]]) -> Table:
    """A table of values before, where they were measured, and after the run."""
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for heading in ("before", "after"):
        table.add_column(heading, justify="right")
    for name, values in changes.items():
        table.add_row(name, *("" if value is None else f"{value:.3f}" for value in values))
    return table


def _table(rows: dict[str, str]) -> Table:
    """A table of names and texts."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, value)
    return table
