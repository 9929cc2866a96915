"""A run's numbers as pictures: plots/*.png from metrics.jsonl."""

import json
import pathlib
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

Records = Sequence[dict[str, float]]
# The three regularizers in the same colors wherever they appear.
COLORS = {
    "task": "#1f77b4",
    "consistency": "#d62728",
    "diversity": "#2ca02c",
    "svd": "#9467bd",
    "loss": "#333333",
}
# Two terms often have one schedule: their lines lie on each other.
STYLES = {"consistency": "-", "diversity": "-", "svd": "--"}
# What each term's picture is called, its unit, and the sign that makes it so.
WRITING = {
    "consistency": ("KL to the teacher (times T²)", "nats per token", 1),
    "diversity": ("Entropy of the top-K softmax", "nats per token", -1),
    "svd": ("Leading singular values / norm", "share", -1),
}
CLASSIFYING = {
    "consistency": ("Distance from the teacher", "per example", 1),
    "diversity": ("Squared covariance between classes", "squared logits", 1),
    "svd": ("Leading singular values / all", "share", -1),
}
TERMS = ("consistency", "diversity", "svd")


def draw(metrics: pathlib.Path, folder: pathlib.Path) -> list[pathlib.Path]:
    """Draws loss, regularizers, weights, learning rate and, where there are any, held-out metrics.

    Args:
      metrics: a run's metrics.jsonl.
      folder: made if need be.

    Returns:
      The pictures' paths.
    """
    records = [json.loads(line) for line in metrics.read_text().splitlines()]
    steps = [record for record in records if "loss" in record]
    held_out = [record for record in records if "eval_loss" in record]
    folder.mkdir(parents=True, exist_ok=True)
    writes = "response_tokens" in steps[0]
    pictures = {
        "loss": _loss(steps, held_out, "nats per answer token" if writes else "per example"),
        "learning_rate": _learning_rate(steps),
    }
    if any(name in steps[0] for name in TERMS):
        pictures |= {
            "regularizers": _regularizers(steps, WRITING if writes else CLASSIFYING),
            "weights": _weights(steps),
        }
    if held_out and len(held_out[-1]) > 2:
        pictures["metrics"] = _metrics(held_out)
    paths = []
    for name, figure in pictures.items():
        paths.append(folder / f"{name}.png")
        figure.savefig(paths[-1], dpi=110)
    return paths


def _line(axes: Axes, records: Records, name: str, sign: float = 1, **style) -> None:
    marker = "o" if len(records) < 3 else None
    axes.plot(
        [r["step"] for r in records], [sign * r[name] for r in records], marker=marker, **style
    )


def _axes(axes: Axes, title: str, unit: str) -> None:
    axes.set_title(title, fontsize=10)
    axes.set_ylabel(unit, fontsize=9)
    axes.set_xlabel("step", fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)


def _loss(steps: Records, held_out: Records, unit: str) -> Figure:
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    _line(
        axes, steps, "loss", color=COLORS["loss"], label="loss (task + weighted regularizers)", lw=1
    )
    _line(axes, steps, "task", color=COLORS["task"], label="task (cross-entropy)", lw=1, ls="--")
    if held_out:
        _line(axes, held_out, "eval_loss", color="#ff7f0e", label="held-out task", lw=2)
    _axes(axes, "Loss", unit)
    axes.legend(fontsize=8)
    return figure


def _metrics(held_out: Records) -> Figure:
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    for name in held_out[-1]:
        if name not in ("step", "eval_loss"):
            _line(axes, held_out, name, label=name.removeprefix("eval_"))
    _axes(axes, "Held-out metrics", "share or coefficient")
    axes.legend(fontsize=8)
    return figure


def _regularizers(steps: Records, drawn: dict[str, tuple[str, str, int]]) -> Figure:
    present = [name for name in drawn if name in steps[0]]
    figure = Figure(figsize=(3.6 * len(present) + 0.4, 3.2), layout="constrained")
    row = figure.subplots(1, len(present), squeeze=False)[0]
    for axes, name in zip(row, present, strict=True):
        title, unit, sign = drawn[name]
        _line(axes, steps, name, sign, color=COLORS[name], lw=1)
        _axes(axes, title, unit)
    return figure


def _weights(steps: Records) -> Figure:
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    for name in TERMS:
        if f"weight_{name}" in steps[0]:
            _line(axes, steps, f"weight_{name}", color=COLORS[name], ls=STYLES[name], label=name)
    _axes(axes, "Regularizers' weights", "weight")
    axes.legend(fontsize=8)
    return figure


def _learning_rate(steps: Records) -> Figure:
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    _line(axes, steps, "learning_rate", color=COLORS["task"])
    _axes(axes, "Learning rate", "per update")
    return figure
