"""Seconds and memory of one training step, ours and PyTorch + PEFT's, in one run.

    python -m benchmarks.step_time [--model small] [--batch 4] [--length 256] [--rank 32]
        [--repeats 5] [--no-pytorch]
    python -m benchmarks.step_time --model minilm --batch 32 --length 128 --rank 8

Times several forms in turn, round by round, so that changes of the machine's speed affect all of
them alike:

    lora      LoRA alone, the streamed cross-entropy
    teacher   the teacher's forward pass with its head
    plain     BA-LoRA from whole logits
    ba-lora   BA-LoRA, streamed
    pytorch   the BA-LoRA step in PyTorch + PEFT, in a process of its own

At the end it times one matrix product of a layer in jax and PyTorch, since a step on CPU is little
else. A classifier (minilm) has one form of BA-LoRA, and its teacher's logits come with the batch,
because a run computes them once, before training. The teacher of PyTorch runs in every step.
Weights and tokens are random, every position is counted, and dropout is that of the model's
configuration. Prints medians and ratios, and writes benchmarks/results/step_time_MODEL.json.
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

# transformers loads PyTorch if it is installed. This process runs without it, as a plain
# installation does.
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
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_sizes(parser)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--forms", nargs="+", default=list(FORMS), choices=FORMS, help="ba-lora is always timed"
    )
    parser.add_argument("--no-pytorch", action="store_true")
    options = parser.parse_args()
    calls = our_calls(options)
    # This step runs before the others are compiled, so that the peak memory is its own.
    jax.block_until_ready(calls["ba-lora"]())
    peaks = {"ba-lora": peak_bytes()}
    with PyTorch(options) as pytorch:
        if not options.no_pytorch:
            calls["pytorch"] = functools.partial(pytorch.run, "step")
        seconds = measure.seconds_in_turn(calls, options.repeats)
        rates = {}
        if not options.no_pytorch:
            rates = product_rates(options, pytorch)
            peaks["pytorch"] = pytorch.peak_bytes
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


def add_sizes(parser: argparse.ArgumentParser) -> None:
    """Add the options of the model and its batch."""
    parser.add_argument("--model", default="small", choices=sizes.CONFIGS)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--remat", default="none", choices=("none", "dots", "full"))


def show(table: dict[str, dict[str, float]], tokens: int) -> None:
    """Print the table and its ratios.

    Args:
      table: seconds, fastest and perhaps peak_bytes of each form.
      tokens: tokens of a batch.
    """
    for name, row in table.items():
        memory = f"{row['peak_bytes'] / 2**30:6.2f} GiB peak" if "peak_bytes" in row else ""
        times = f"{row['seconds']:8.3f} s (fastest {row['fastest']:.3f})"
        speed = f"{tokens / row['seconds']:10,.0f} tokens/s"
        print(f"{name:10} {times} {speed} {memory}")
    for name, ratio in compare(table).items():
        print(f"{name}: {ratio:.3f}")


def compare(table: dict[str, dict[str, float]]) -> dict[str, float]:
    """Compute the ratios of the medians (seconds), of the fastest steps, and of the peak memory.

    Args:
      table: seconds, fastest and perhaps peak_bytes of each form.

    Returns:
      The ratios by name.
    """
    ratios = {}
    for column in ("seconds", "fastest"):
        times = {name: row[column] for name, row in table.items()}
        if {"lora", "teacher"} <= times.keys():
            parts = times["lora"] + times["teacher"]
            ratios[f"ba-lora / (lora + teacher), {column}"] = times["ba-lora"] / parts
        for other in times.keys() & {"plain", "pytorch"}:
            ratios[f"ba-lora / {other}, {column}"] = times["ba-lora"] / times[other]
    if "pytorch" in table:
        peak = table["ba-lora"]["peak_bytes"] / table["pytorch"]["peak_bytes"]
        ratios["ba-lora / pytorch, peak memory"] = peak
    return ratios


def product_rates(options: argparse.Namespace, pytorch: "PyTorch") -> dict[str, float]:
    """Measure the speed of jax and PyTorch at one matrix product of a layer's MLP.

    Args:
      options: the command line's.
      pytorch: the process of PyTorch.

    Returns:
      GFLOP/s of the fastest of 20 products, by library.
    """
    config = sizes.CONFIGS[options.model]
    tokens = options.batch * options.length
    width = config.hidden_size
    inner = config.intermediate_size
    left = jnp.ones((tokens, width), options.dtype)
    right = jnp.ones((width, inner), options.dtype)
    calls = {
        "jax": functools.partial(jax.jit(jnp.matmul), left, right),
        "PyTorch": functools.partial(pytorch.run, "product"),
    }
    seconds = measure.seconds_in_turn(calls, 20)
    return {name: 2e-9 * tokens * width * inner / min(times) for name, times in seconds.items()}


def our_calls(options: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    """Make a call for each form, with the same weights and batch.

    Args:
      options: the command line's.

    Returns:
      The calls by form.
    """
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
    if sizes.is_language_model(options.model):
        setups["plain"] = setup_of(whole_logits=True)
        teacher = _teacher(model)
    config = sizes.make_config(
        options.model, rank=options.rank, batch=options.batch, dtype=options.dtype
    )
    shapes = batch_shapes(config, model, options.length)
    state, frozen, batch = sizes.materialize(setups["ba-lora"], shapes)
    calls = {
        form: functools.partial(jax.jit(setup.step), *sizes.share(setup, state, frozen), batch)
        for form, setup in setups.items()
    }
    calls["teacher"] = functools.partial(teacher, frozen, batch)
    return {
        form: call for form, call in calls.items() if form in options.forms or form == "ba-lora"
    }


def _teacher(model: Any) -> Callable:
    """The forward pass of the base with its head; the logits of each token become one number."""

    @jax.jit
    def forward(frozen, batch):
        ids = batch.input_ids[0]
        mask = batch.attention_mask[0]
        hidden = model.apply({"params": frozen.base}, ids, mask, method="hidden_states")
        head = models.head(model, frozen.base)
        chunks = hidden.reshape(-1, 256, hidden.shape[-1])
        return jax.lax.map(lambda chunk: jnp.max(head.logits(chunk), axis=-1), chunks)

    return forward


def _classifier_teacher(model: Any) -> Callable:
    """The forward pass of the base up to its features; the head costs little."""

    @jax.jit
    def forward(frozen, batch):
        texts = (batch.input_ids[0], batch.attention_mask[0], batch.token_type_ids[0])
        return model.apply({"params": frozen.base}, *texts, method="features")

    return forward


def peak_bytes() -> int:
    """The peak memory in bytes: the device's, or the process's if the device has no statistics."""
    stats = jax.devices()[0].memory_stats()
    if stats:
        return stats["peak_bytes_in_use"]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class PyTorch:
    """The step in PyTorch + PEFT, in a process of its own (`pytorch_step`).

    Attributes:
      peak_bytes: the peak memory of the process after the last command.
    """

    def __init__(self, options: argparse.Namespace, *, batches: str | None = None) -> None:
        """Prepare the command line of the process.

        Args:
          options: the command line's. With --no-pytorch no process is started.
          batches: a file of batches; None for one of random tokens.
        """
        names = ("model", "batch", "length", "rank")
        arguments = [text for name in names for text in (f"--{name}", str(getattr(options, name)))]
        arguments += [] if batches is None else ["--batches", batches]
        self._command = [sys.executable, "-m", "benchmarks.pytorch_step", *arguments]
        self._enabled = not options.no_pytorch
        self.peak_bytes = 0

    def __enter__(self) -> "PyTorch":
        """Start the process."""
        if self._enabled:
            # The limit on OpenBLAS's threads is for jax alone.
            environment = dict(os.environ)
            environment.pop("OPENBLAS_NUM_THREADS", None)
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=environment,
            )
        return self

    def run(self, command: str) -> None:
        """Run a command in the process, and wait for its end.

        Args:
          command: step or product.

        Raises:
          RuntimeError: the process has ended.
        """
        self._process.stdin.write(f"{command}\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(
                f"the process {' '.join(self._command)} ended with code {self._process.wait()}"
            )
        self.peak_bytes = json.loads(line)["peak_bytes"]

    def __exit__(self, *_: Any) -> None:
        """End the process."""
        if self._enabled:
            self._process.stdin.close()
            self._process.wait()


if __name__ == "__main__":
    main()
