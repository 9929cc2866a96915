"""Seconds and memory of one training step, ours and PyTorch + PEFT's, in one run.

    python -m benchmarks.step_time [--model small] [--batch 4] [--length 256] [--rank 32] [--repeats 5] [--no-pytorch]
    python -m benchmarks.step_time --model minilm --batch 32 --length 128 --rank 8

Times in turn, round by round, so that a machine's moods fall on all alike: LoRA alone (streamed cross-entropy), the
teacher's forward pass alone with its head, BA-LoRA from whole logits (`plain`), BA-LoRA streamed, and the same step in
PyTorch + PEFT in a process of its own; at the end one matrix product of a layer in both, since a step on CPU is little
else. A classifier (minilm) has one form of BA-LoRA, and its teacher's logits come with the batch: a run computes them
once, before it begins. PyTorch's teacher runs in every step. Random weights and tokens, every position counted, dropout
as the model's configuration has it. Prints medians and ratios, writes benchmarks/results/step_time_MODEL.json.
"""

import argparse
import functools
import json
import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable
from typing import Any

# transformers loads PyTorch wherever it is installed. This process runs without, as an installation without it does.
sys.modules.setdefault("torch", None)

import jax
import jax.numpy as jnp

from balora_jax import models
from balora_jax.config import MeshConfig
from balora_jax.runs.setup import batch_shapes, build_setup
from balora_jax.training.setup import TrainSetup
from balora_jax.training.sharding import make_mesh
from benchmarks import measure, sizes

FORMS = ("lora", "teacher", "plain", "ba-lora")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="small", choices=sizes.CONFIGS)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--remat", default="none", choices=("none", "dots", "full"))
    parser.add_argument(
        "--forms", nargs="+", default=list(FORMS), choices=FORMS, help="ba-lora is always timed"
    )
    parser.add_argument("--no-pytorch", action="store_true")
    options = parser.parse_args()
    calls = our_calls(options)
    # Before the others are compiled: the process's peak is this step's.
    jax.block_until_ready(calls["ba-lora"]())
    peaks = {"ba-lora": _peak()}
    with PyTorch(options) as pytorch:
        theirs = {} if options.no_pytorch else {"pytorch": functools.partial(pytorch.make, "step")}
        seconds = measure.seconds_in_turn(calls | theirs, options.repeats)
        rates = {} if options.no_pytorch else product_rates(options, pytorch)
        peaks |= {name: pytorch.peak_bytes for name in theirs}
    table = {
        name: {"seconds": statistics.median(times), "fastest": min(times)}
        for name, times in seconds.items()
    }
    for name, peak in peaks.items():
        table[name]["peak_bytes"] = peak
    show(table, options.batch * options.length)
    for name, rate in rates.items():
        print(f"one product of a layer, {name}: {rate:.0f} GFLOP/s")
    result = {
        "options": vars(options),
        "table": table,
        "ratios": compare(table),
        "product_gflops": rates,
    }
    measure.write(f"step_time_{options.model}", result)


def show(table: dict[str, dict[str, float]], tokens: int) -> None:
    """Prints the table and its ratios."""
    for name, row in table.items():
        memory = f"{row['peak_bytes'] / 2**30:6.2f} GiB peak" if "peak_bytes" in row else ""
        speed = f"{row['seconds']:8.3f} s (fastest {row['fastest']:.3f}) {tokens / row['seconds']:10,.0f} tokens/s"
        print(f"{name:10} {speed} {memory}")
    for name, ratio in compare(table).items():
        print(f"{name}: {ratio:.3f}")


def compare(table: dict[str, dict[str, float]]) -> dict[str, float]:
    """What the numbers are published for: of medians, and of each form's fastest step."""
    ratios = {}
    for kind in ("seconds", "fastest"):
        of = {name: row[kind] for name, row in table.items()}
        if {"lora", "teacher"} <= of.keys():
            ratios[f"ba-lora / (lora + teacher), {kind}"] = of["ba-lora"] / (
                of["lora"] + of["teacher"]
            )
        for other in of.keys() & {"plain", "pytorch"}:
            ratios[f"ba-lora / {other}, {kind}"] = of["ba-lora"] / of[other]
    if "pytorch" in table:
        peak = table["ba-lora"]["peak_bytes"] / table["pytorch"]["peak_bytes"]
        ratios["ba-lora / pytorch, peak memory"] = peak
    return ratios


def product_rates(options: argparse.Namespace, pytorch: "PyTorch") -> dict[str, float]:
    """GFLOP/s of jax and of PyTorch at all tokens times the kernel of a layer's MLP, the fastest of 20."""
    config = sizes.CONFIGS[options.model]
    tokens, width, inner = (
        options.batch * options.length,
        config.hidden_size,
        config.intermediate_size,
    )
    left, right = jnp.ones((tokens, width), options.dtype), jnp.ones((width, inner), options.dtype)
    calls = {
        "jax": functools.partial(jax.jit(jnp.matmul), left, right),
        "PyTorch": functools.partial(pytorch.make, "product"),
    }
    seconds = measure.seconds_in_turn(calls, 20)
    return {name: 2e-9 * tokens * width * inner / min(times) for name, times in seconds.items()}


def our_calls(options: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    """A call for each form, of the same weights and batch."""
    model = sizes.make_model(options.model, dtype=options.dtype)
    mesh = make_mesh(MeshConfig(data=1), jax.devices()[:1])

    def setup_of(regularized: bool = True, whole_logits: bool = False) -> TrainSetup:
        config = sizes.make_config(
            options.model,
            rank=options.rank,
            batch=options.batch,
            dtype=options.dtype,
            remat=options.remat,
            regularized=regularized,
        )
        return build_setup(config, model, mesh, steps=sizes.STEPS, whole_logits=whole_logits)

    setups = {"ba-lora": setup_of(), "lora": setup_of(regularized=False)}
    teacher = _classifier_teacher(model)
    if sizes.writes(options.model):
        setups["plain"] = setup_of(whole_logits=True)
        teacher = _teacher(model)
    config = sizes.make_config(
        options.model, rank=options.rank, batch=options.batch, dtype=options.dtype
    )
    shapes = batch_shapes(config, model, options.length)
    state, frozen, batch = sizes.materialize(setups["ba-lora"], shapes)
    calls = {
        form: functools.partial(jax.jit(setup.step), state, frozen, batch)
        for form, setup in setups.items()
    }
    calls["teacher"] = functools.partial(teacher, frozen, batch)
    return {
        form: call for form, call in calls.items() if form in options.forms or form == "ba-lora"
    }


def _teacher(model: Any) -> Callable:
    """The base's forward pass with its head, each token's logits reduced to one number."""

    @jax.jit
    def forward(frozen, batch):
        ids, mask = batch.input_ids[0], batch.attention_mask[0]
        hidden = model.apply({"params": frozen.base}, ids, mask, method="hidden_states")
        head = models.head(model, frozen.base)
        chunks = hidden.reshape(-1, 256, hidden.shape[-1])
        return jax.lax.map(lambda chunk: jnp.max(head.logits(chunk), axis=-1), chunks)

    return forward


def _classifier_teacher(model: Any) -> Callable:
    """The base's features: its head is among the trained leaves, and costs nothing."""

    @jax.jit
    def forward(frozen, batch):
        texts = (batch.input_ids[0], batch.attention_mask[0], batch.token_type_ids[0])
        return model.apply({"params": frozen.base}, *texts, method="features")

    return forward


def _peak() -> int:
    stats = jax.devices()[0].memory_stats()
    return (
        stats["peak_bytes_in_use"]
        if stats
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )


class PyTorch:
    """The same step in PyTorch + PEFT, in a process of its own that makes what it is told to, line by line."""

    def __init__(self, options: argparse.Namespace) -> None:
        names = ("model", "batch", "length", "rank")
        arguments = [text for name in names for text in (f"--{name}", str(getattr(options, name)))]
        self._command = [sys.executable, "-m", "benchmarks.pytorch_step", *arguments]
        self._wanted, self.peak_bytes = not options.no_pytorch, 0

    def __enter__(self) -> "PyTorch":
        if self._wanted:
            # What suits jax is not what suits PyTorch.
            own = {
                name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"
            }
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": own}
            self._process = subprocess.Popen(self._command, **pipes)
        return self

    def make(self, what: str) -> None:
        """Returns when a `step` or a `product` is made."""
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(
                f"the process {' '.join(self._command)} ended with code {self._process.wait()}"
            )
        self.peak_bytes = json.loads(line)["peak_bytes"]

    def __exit__(self, *_: Any) -> None:
        if self._wanted:
            self._process.stdin.close()
            self._process.wait()


if __name__ == "__main__":
    main()
