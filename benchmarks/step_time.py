"""Seconds and memory of one training step, ours and PyTorch + PEFT's, in one run.

    python -m benchmarks.step_time [--model small] [--batch 4] [--length 256] [--rank 32] [--repeats 5] [--no-pytorch]

Times in turn, round by round, so that a machine's moods fall on all alike: LoRA alone (streamed cross-entropy), the
teacher's forward pass alone with its head, BA-LoRA from whole logits, BA-LoRA streamed; then the same step in PyTorch +
PEFT in a process of its own. Random weights and tokens, every position counted. Prints medians and ratios, writes
benchmarks/results/step_time_MODEL.json.
"""

import argparse
import dataclasses
import functools
import json
import resource
import statistics
import subprocess
import sys

import jax
import jax.numpy as jnp

from balora_jax import models
from balora_jax.config import MeshConfig, RegularizersConfig
from balora_jax.training.sharding import make_mesh
from benchmarks import measure, sizes

FORMS = ("lora", "teacher", "plain", "streamed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="small", choices=sizes.CONFIGS)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--forms", nargs="+", default=list(FORMS), choices=FORMS)
    parser.add_argument("--no-pytorch", action="store_true")
    options = parser.parse_args()
    seconds, peak = time_ours(options)
    table = {name: {"seconds": statistics.median(times)} for name, times in seconds.items()}
    table["streamed"]["peak_bytes"] = peak
    if not options.no_pytorch:
        theirs = time_pytorch(options)
        table["pytorch"] = {"seconds": statistics.median(theirs["seconds"]), "peak_bytes": theirs["peak_bytes"]}
    ratios = compare(table)
    tokens = options.batch * options.length
    for name, row in table.items():
        memory = f"{row['peak_bytes'] / 2**30:6.2f} GiB peak" if "peak_bytes" in row else ""
        print(f"{name:10} {row['seconds']:8.3f} s {tokens / row['seconds']:10,.0f} tokens/s {memory}")
    for name, ratio in ratios.items():
        print(f"{name}: {ratio:.3f}")
    measure.write(f"step_time_{options.model}", {"options": vars(options), "table": table, "ratios": ratios})


def compare(table: dict[str, dict[str, float]]) -> dict[str, float]:
    """What the numbers are published for."""
    seconds = {name: row["seconds"] for name, row in table.items()}
    ratios = {}
    if {"lora", "teacher", "streamed"} <= seconds.keys():
        ratios["streamed / (lora + teacher)"] = seconds["streamed"] / (seconds["lora"] + seconds["teacher"])
    if {"plain", "streamed"} <= seconds.keys():
        ratios["streamed / plain"] = seconds["streamed"] / seconds["plain"]
    if "pytorch" in seconds:
        ratios["streamed / pytorch, time"] = seconds["streamed"] / seconds["pytorch"]
        ratios["streamed / pytorch, peak memory"] = table["streamed"]["peak_bytes"] / table["pytorch"]["peak_bytes"]
    return ratios


def time_ours(options: argparse.Namespace) -> tuple[dict[str, list[float]], int]:
    """Seconds of each form, and the peak memory of the streamed one (measured first, before the others)."""
    model = sizes.make_model(options.model, dtype=options.dtype)
    mesh = make_mesh(MeshConfig(data=1), jax.devices()[:1])
    steps = {}
    for form in options.forms:
        if form != "teacher":
            terms = RegularizersConfig() if form != "lora" else _off()
            make = functools.partial(sizes.step_of_shapes, model, terms, rank=options.rank, mesh=mesh)
            steps[form] = make(batch=options.batch, length=options.length, streamed=form != "plain")
    state, frozen, batch = sizes.materialize(steps["streamed"], model)
    run = {form: jax.jit(step.update) for form, step in steps.items()}
    calls = {form: functools.partial(update, state, frozen, batch) for form, update in run.items()}
    calls["teacher"] = functools.partial(_teacher(model), frozen, batch)
    jax.block_until_ready(calls["streamed"]())
    peak = _peak()
    return measure.seconds_in_turn({form: calls[form] for form in options.forms}, options.repeats), peak


def _off() -> RegularizersConfig:
    terms = RegularizersConfig()
    return RegularizersConfig(
        **{part.name: dataclasses.replace(getattr(terms, part.name), weight=0.0) for part in dataclasses.fields(terms)}
    )


def _teacher(model):
    """The base's forward pass with its head, each token's logits reduced to one number."""

    @jax.jit
    def forward(frozen, batch):
        ids, mask = batch["input_ids"][0], batch["attention_mask"][0]
        hidden = model.apply({"params": frozen["base"]}, ids, mask, method="hidden_states")
        head = models.head(model, frozen["base"])
        chunks = hidden.reshape(-1, 256, hidden.shape[-1])
        return jax.lax.map(lambda chunk: jnp.max(head.logits(chunk), axis=-1), chunks)

    return forward


def _peak() -> int:
    stats = jax.devices()[0].memory_stats()
    return stats["peak_bytes_in_use"] if stats else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def time_pytorch(options: argparse.Namespace) -> dict:
    """The same step in PyTorch + PEFT, in a process of its own."""
    names = ("model", "batch", "length", "rank", "repeats")
    arguments = [text for name in names for text in (f"--{name}", str(getattr(options, name)))]
    command = [sys.executable, "-m", "benchmarks.pytorch_step", *arguments]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
