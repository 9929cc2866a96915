"""Plots of a run's records: plots/*.png."""

import pathlib
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from balora_jax.regularizers.terms import REGULARIZERS
from balora_jax.training.records import HeldOutRecord, StepRecord
from balora_jax.training.summary import History

LOSS_COLOR = "#333333"
TASK_COLOR = "#1f77b4"
HELD_OUT_COLOR = "#ff7f0e"
# How the names of measures on `evaluation.probe_text` begin, and the units that are not nats.
TEXT = "text_"
TEXT_UNITS = {"agreement": "share of tokens", "effective_rank": "directions"}


def draw(history: History, folder: pathlib.Path) -> list[pathlib.Path]:
    """Draw the loss, learning rate, regularizers, weights and held-out metrics that a run has.

    Args:
      history: the records of a run, with at least one update.
      folder: the folder for the plots; created if it does not exist.

    Returns:
      The paths of the plots.
    """
    folder.mkdir(parents=True, exist_ok=True)
    steps = history.steps
    figures = {"loss": _loss(history), "learning_rate": _learning_rate(steps)}
    if steps[0].terms:
        figures["regularizers"] = _regularizers(steps)
        figures["weights"] = _weights(steps)
    names = list(history.held_out[-1].metrics) if history.held_out else []
    of_text = [name for name in names if name.startswith(TEXT)]
    of_task = [name for name in names if name not in of_text]
    if of_task:
        figures["metrics"] = _metrics(history.held_out, of_task)
    if of_text:
        figures["probe_text"] = _probe_text(history.held_out, of_text)

    paths = []
    for name, figure in figures.items():
        path = folder / f"{name}.png"
        figure.savefig(path, dpi=110)
        paths.append(path)
    return paths


def _is_language_model(steps: Sequence[StepRecord]) -> bool:
    """Return True if the records are those of a language model, not of a classifier."""
    return steps[0].response_tokens is not None


def _line(axes: Axes, steps: Sequence[int], values: Sequence[float], **style) -> None:
    """Draw a line; one or two values get markers, which alone would be visible."""
    marker = "o" if len(steps) < 3 else None
    axes.plot(steps, values, **{"marker": marker, **style})


def _label_axes(axes: Axes, title: str, unit: str) -> None:
    axes.set_title(title, fontsize=10)
    axes.set_ylabel(unit, fontsize=9)
    axes.set_xlabel("step", fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)


def _step_numbers(records: Sequence[StepRecord | HeldOutRecord]) -> list[int]:
    return [record.step for record in records]


def _loss(history: History) -> Figure:
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    steps = history.steps
    numbers = _step_numbers(steps)
    total = "loss (task + weighted regularizers)"
    _line(axes, numbers, [step.loss for step in steps], color=LOSS_COLOR, label=total, lw=1)
    task = "task (cross-entropy)"
    values = [step.task for step in steps]
    _line(axes, numbers, values, color=TASK_COLOR, label=task, lw=1, ls="--")
    if history.held_out:
        losses = [record.loss for record in history.held_out]
        style = {"color": HELD_OUT_COLOR, "label": "held-out task", "lw": 2, "marker": "o", "ms": 4}
        _line(axes, _step_numbers(history.held_out), losses, **style)
    _label_axes(
        axes, "Loss", "nats per answer token" if _is_language_model(steps) else "per example"
    )
    axes.legend(fontsize=8)
    return figure


def _metrics(held_out: Sequence[HeldOutRecord], names: Sequence[str]) -> Figure:
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    for name in names:
        _metric(axes, held_out, name)
    _label_axes(axes, "Held-out metrics", "share or coefficient")
    axes.legend(fontsize=8)
    return figure


def _probe_text(held_out: Sequence[HeldOutRecord], names: Sequence[str]) -> Figure:
    """The measures on `evaluation.probe_text`, each on axes of its own unit."""
    figure = Figure(figsize=(3.4 * len(names), 3.2), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        _metric(axes, held_out, name)
        title = name.removeprefix(TEXT).replace("_", " ")
        _label_axes(axes, title, TEXT_UNITS.get(name.removeprefix(TEXT), "nats"))
    figure.suptitle("General text: drift from the base", fontsize=11)
    return figure


def _metric(axes: Axes, held_out: Sequence[HeldOutRecord], name: str) -> None:
    """Draw a metric at the evaluations that have it; a resumed run may have others than before."""
    records = [record for record in held_out if name in record.metrics]
    values = [record.metrics[name] for record in records]
    _line(axes, _step_numbers(records), values, label=name, marker="o", ms=4)


def _regularizers(steps: Sequence[StepRecord]) -> Figure:
    rows = [REGULARIZERS[name] for name in REGULARIZERS if name in steps[0].terms]
    figure = Figure(figsize=(3.6 * len(rows) + 0.4, 3.2), layout="constrained")
    subplots = figure.subplots(1, len(rows), squeeze=False)[0]
    for axes, row in zip(subplots, rows, strict=True):
        form = row.nlg if _is_language_model(steps) else row.nlu
        values = [form.sign * step.terms[row.name] for step in steps]
        _line(axes, _step_numbers(steps), values, color=row.color, lw=1)
        unit = form.unit if form.sign == 1 else f"{form.unit} (minus the term)"
        _label_axes(axes, form.title, unit)
    return figure


def _weights(steps: Sequence[StepRecord]) -> Figure:
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    for name, row in REGULARIZERS.items():
        if name in steps[0].weights:
            values = [step.weights[name] for step in steps]
            style = {"color": row.color, "ls": row.line_style, "label": name}
            _line(axes, _step_numbers(steps), values, **style)
    _label_axes(axes, "Regularizers' weights", "weight")
    axes.legend(fontsize=8)
    return figure


def _learning_rate(steps: Sequence[StepRecord]) -> Figure:
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    _line(axes, _step_numbers(steps), [step.learning_rate for step in steps], color=TASK_COLOR)
    _label_axes(axes, "Learning rate", "per update")
    return figure
