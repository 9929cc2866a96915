"""What a person is told of a run: what is about to run, how to go on after a stop, what it came to."""

import json
from typing import Any

import numpy as np
from jax.sharding import Mesh
from rich.console import Console
from rich.table import Table

from balora_jax import models
from balora_jax.config import RunConfig
from balora_jax.evaluation.tiny_world import TITLES
from balora_jax.reporting import inactive_terms
from balora_jax.reporting.progress import HELD_OUT_LOSS
from balora_jax.runs.setup import Assembly
from balora_jax.runs.tasks import CompiledStep
from balora_jax.training.best import Best
from balora_jax.training.run_folder import RunFolder
from balora_jax.training.state import count


def show_start(
    console: Console,
    config: RunConfig,
    run: Assembly,
    mesh: Mesh,
    steps: int,
    start: int,
    compiled: CompiledStep,
    counted: int,
) -> None:
    """The first screen; `counted`: as for `noticed`."""
    trained, frozen = count(run.state.trainable), count(run.frozen["base"])
    adapter, training = config.adapter, config.training
    rows = {
        "model": f"{config.model.source} ({config.model.task}, {config.model.dtype})",
        "method": config.method,
        "adapter": f"rank {run.spec.rank}, {config.adapter_init}, {adapter.form} form",
        "regularizers": _acting(config),
        "parameters": f"{trained:,} trained, {frozen:,} frozen",
        "mesh": " x ".join(f"{name} {size}" for name, size in mesh.shape.items()),
        "memory": f"{compiled.bytes / 2**30:.2f} GiB a device",
        "steps": f"{start:,} to {steps:,}, {training.batch_size} examples each"
        + (f" in {training.accumulation} micro-batches" if training.accumulation > 1 else ""),
        "precision": f"{training.precision} products, compiled in {compiled.seconds:.1f} s",
    }
    if config.method == "full":
        del rows["adapter"], rows["regularizers"]
    console.print(_table(rows))
    for sentence in noticed(config, run, steps, counted):
        console.print(f"note: {sentence}", highlight=False, soft_wrap=True)


def noticed(config: RunConfig, run: Assembly, steps: int, counted: int) -> list[str]:
    """What is said of regularizers that cannot act in a run of so many steps.

    `counted` is how many tokens of an example the loss can count.
    """
    terms, training = config.active_regularizers, config.training
    if config.method != "ba-lora":
        return inactive_terms.unused(config.method, config.regularizers)
    if config.model.task == "sequence-classification":
        return inactive_terms.classifier(
            terms, steps=steps, examples=training.batch_size, classes=run.model.labels
        )
    head = models.head(run.model, run.frozen["base"])
    hidden_size, vocabulary = head.kernel.shape
    return inactive_terms.language_model(
        terms,
        steps=steps,
        tokens=training.batch_size // training.accumulation // terms.svd.groups * counted,
        hidden_size=hidden_size,
        vocabulary=vocabulary,
        softcapped=head.softcap is not None,
        head_frozen=run.head_frozen,
    )


def _acting(config: RunConfig) -> str:
    terms = vars(config.active_regularizers).items()
    return (
        ", ".join(
            f"{name} {term.weight:g} ({term.schedule})" for name, term in terms if term.weight > 0
        )
        or "none"
    )


def show_stop(console: Console, folder: RunFolder, done: int, steps: int) -> None:
    """What to type to go on."""
    console.print(
        f"stopped after step {done} of {steps}; all is saved. Go on with:\n"
        f"  python train.py --config {folder.config} --output.resume",
        highlight=False,
        soft_wrap=True,
    )


def summarize(
    config: RunConfig,
    run: Assembly,
    folder: RunFolder,
    done: int,
    kept: int,
    best: Best,
    elsewhere: dict[str, float],
    compiled: CompiledStep,
    seconds: float,
) -> dict[str, Any]:
    """What the run came to, for summary.json.

    Args:
      config, run, folder, compiled: the run.
      done: updates made.
      kept: the update whose weights are exported.
      best: says how good they are.
      elsewhere: what was measured out of the domain.
      seconds: the whole run's.
    """
    records = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    losses = [record["loss"] for record in records if "loss" in record]
    held_out = [record for record in records if "eval_loss" in record]
    last = next((record for record in held_out if record["step"] == kept), {})
    # A run's first step waits for more than its own work.
    speeds = [record["tokens_per_second"] for record in records if "loss" in record][1:] or [0.0]
    return {
        "method": config.method,
        "model": config.model.source,
        "steps": done,
        "step_kept": kept,
        "parameters_trained": count(run.state.trainable),
        "parameters_frozen": count(run.frozen["base"]),
        "loss_first": losses[0],
        "loss_last": losses[-1],
        "eval_loss_first": held_out[0]["eval_loss"] if held_out else None,
        "eval_loss_last": last.get("eval_loss"),
        "metrics": {
            name.removeprefix("eval_"): value
            for name, value in last.items()
            if name not in HELD_OUT_LOSS
        },
        "metrics_ood": elsewhere,
        "score": best.score(last),
        "probes": _probes(records),
        "tokens_per_second": round(float(np.median(speeds)), 1),
        "lengths_compiled": compiled.lengths,
        "compile_seconds": round(compiled.seconds, 2),
        "device_bytes": compiled.bytes,
        "seconds": round(seconds, 1),
    }


def _probes(records: list[dict[str, float]]) -> dict[str, list[float]]:
    """Each probe's name with what it found before and after."""
    measured = [record for record in records if "probe_entropy" in record]
    if not measured:
        return {}
    names = [name for name in measured[0] if name.startswith("probe_")]
    return {name.removeprefix("probe_"): [measured[0][name], measured[-1][name]] for name in names}


def show_end(console: Console, folder: RunFolder, summary: dict[str, Any]) -> None:
    """The summary table, and where things are."""
    changes = {"loss": (summary["loss_first"], summary["loss_last"])}
    if summary["eval_loss_first"] is not None:
        changes["held-out loss"] = (summary["eval_loss_first"], summary["eval_loss_last"])
    changes |= {TITLES[name]: values for name, values in summary["probes"].items()}
    console.print(_changes(changes))
    rows = {
        name: f"{value:.4f}"
        for name, value in (summary["metrics"] | summary["metrics_ood"]).items()
    }
    rows |= {
        "speed": f"{summary['tokens_per_second']:,.0f} tokens/s",
        "time": f"{summary['seconds']:.0f} s",
    }
    written = {
        name: getattr(folder, name) for name in ("adapter", "merged", "plots", "predictions")
    }
    rows |= {name: str(path) for name, path in written.items() if path.exists()}
    console.print(_table(rows))


def _changes(changes: dict[str, tuple[float, float]]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for when in ("before", "after"):
        table.add_column(when, justify="right")
    for name, values in changes.items():
        table.add_row(name, *(f"{value:.3f}" for value in values))
    return table


def _table(rows: dict[str, str]) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, value)
    return table
