"""Counted tokens a second on real examples: packed, padded, and in PyTorch + PEFT, in one run.

    python -m benchmarks.throughput --data TRAIN.jsonl --tokenizer FOLDER [--model small]
        [--batch 16] [--length 512] [--rank 32] [--updates 4] [--no-pytorch]

Reads and orders the examples as a run does, and times its first updates in several forms, each
update in every form before the next one:

    packed    several examples in each row (data.packing, the default)
    buckets   an example a row, padded to one of a few lengths (data.packing false)
    padded    an example a row, padded to the greatest length
    pytorch   the step in PyTorch + PEFT with two models, padded to the batch's longest example

Weights are random; the tokenizer's ids must fit the model's vocabulary. Every step runs once
untimed. Prints counted tokens a second, the share of text in what is computed and the peak memory,
and writes benchmarks/results/throughput_MODEL.json. The peak memory of ours is that of the packed
step, which is the first to run.
"""

import argparse
import functools
import pathlib
import sys
import tempfile
from typing import Any

# transformers loads PyTorch if it is installed. This process runs without it, as a plain
# installation does.
sys.modules.setdefault("torch", None)

import jax
import numpy as np

from balora_jax import data
from balora_jax.config import DataConfig, MeshConfig
from balora_jax.data import Batch
from balora_jax.runs.setup import batch_shapes, build_setup
from balora_jax.training.sharding import make_mesh
from benchmarks import measure, sizes
from benchmarks.step_time import PyTorch, peak_bytes

FORMS = ("packed", "buckets", "padded")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--model", default="small", choices=sizes.CONFIGS)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--updates", type=int, default=4)
    parser.add_argument("--no-pytorch", action="store_true")
    options = parser.parse_args()
    batches = make_batches(options)
    calls = our_calls(options, batches)
    for number in range(options.updates):
        jax.block_until_ready(calls["packed"](number))
    peaks = {"packed": peak_bytes()}
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "batches.npz"
        np.savez(path, **_numbered(batches["padded"]))
        with PyTorch(options, batches=str(path)) as pytorch:
            if not options.no_pytorch:
                calls["pytorch"] = lambda number: pytorch.run("step")
            seconds = _time(calls, options.updates)
            if not options.no_pytorch:
                peaks["pytorch"] = pytorch.peak_bytes
    counted = sum(int(batch.mask.sum()) for batch in batches["padded"])
    table = {
        form: {"seconds": times, "counted_tokens_per_second": counted / sum(times)}
        for form, times in seconds.items()
    }
    for form, made in batches.items():
        text = sum(int(batch.attention_mask.sum()) for batch in made)
        table[form]["text"] = text / sum(batch.input_ids.size for batch in made)
    for form, peak in peaks.items():
        table[form]["peak_bytes"] = peak
    show(table)
    # Names without the folders of this machine.
    names = {name: pathlib.Path(getattr(options, name)).name for name in ("data", "tokenizer")}
    result = {"options": vars(options) | names, "table": table, "ratios": compare(table)}
    measure.write(f"throughput_{options.model}", result)


def make_batches(options: argparse.Namespace) -> dict[str, list[Batch]]:
    """Make the first updates of a run in each of our forms.

    Args:
      options: the command line's.

    Returns:
      The batches by form.
    """
    tokenizer = data.load_tokenizer(options.tokenizer)
    section = DataConfig(train=options.data, max_length=options.length)
    examples = data.prepare(section, tokenizer, split="train")
    order = data.shuffled_order(examples, options.batch, seed=0)
    packed = data.plan_rows(examples, order, parts=1, multiple=1)
    longest = data.padded_length(examples, max_length=options.length)
    buckets = data.bucket_lengths(longest, options.length)
    numbers = [order[update] for update in range(options.updates)]
    return {
        "packed": [packed.collate(examples, rows) for rows in numbers],
        "buckets": [data.collate(examples, rows, buckets) for rows in numbers],
        "padded": [data.collate(examples, rows, [longest]) for rows in numbers],
    }


def our_calls(options: argparse.Namespace, batches: dict[str, list[Batch]]) -> dict[str, Any]:
    """Make a call of (update's number) for each form, with the same weights.

    Args:
      options: the command line's.
      batches: from `make_batches`.
    """
    model = sizes.make_model(options.model, dtype=options.dtype)
    mesh = make_mesh(MeshConfig(data=1), jax.devices()[:1])
    config = sizes.make_config(
        options.model, rank=options.rank, batch=options.batch, dtype=options.dtype
    )
    setup = build_setup(config, model, mesh, steps=sizes.STEPS)
    state, frozen, _ = sizes.materialize(setup, batch_shapes(config, model, 32))
    step = jax.jit(setup.step)

    def call(form: str, number: int) -> Any:
        batch = jax.tree.map(lambda array: array[None], batches[form][number])
        return step(state, frozen, batch)

    return {form: functools.partial(call, form) for form in FORMS}


def show(table: dict[str, dict[str, Any]]) -> None:
    """Print the table and its ratios.

    Args:
      table: by form, seconds, counted_tokens_per_second, and perhaps text and peak_bytes.
    """
    for form, row in table.items():
        speed = f"{row['counted_tokens_per_second']:10,.0f} counted tokens/s"
        text = f"{row['text']:6.0%} text" if "text" in row else " " * 11
        memory = f"{row['peak_bytes'] / 2**30:6.2f} GiB peak" if "peak_bytes" in row else ""
        print(f"{form:10} {speed} {text} {memory}")
    for name, ratio in compare(table).items():
        print(f"{name}: {ratio:.3f}")


def compare(table: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Compute the ratios of the speeds, and of the peak memory.

    Args:
      table: as for `show`.

    Returns:
      The ratios by name.
    """
    packed = table["packed"]
    ratios = {
        f"packed / {form}, counted tokens a second": packed["counted_tokens_per_second"]
        / row["counted_tokens_per_second"]
        for form, row in table.items()
        if form != "packed"
    }
    if "pytorch" in table:
        ratios["packed / pytorch, peak memory"] = (
            packed["peak_bytes"] / table["pytorch"]["peak_bytes"]
        )
    return ratios


def _time(calls: dict[str, Any], updates: int) -> dict[str, list[float]]:
    """Seconds of each form, update by update; the first round compiles and is not kept."""
    seconds: dict[str, list[float]] = {form: [] for form in calls}
    for timed in (False, True):
        for number in range(updates):
            calls_of_update = {
                form: functools.partial(call, number) for form, call in calls.items()
            }
            for form, call in calls_of_update.items():
                took = measure.seconds(call)
                if timed:
                    seconds[form].append(took)
    return seconds


def _numbered(batches: list[Batch]) -> dict[str, np.ndarray]:
    """The arrays of batches by name and number, as `pytorch_step` reads them."""
    names = ("input_ids", "attention_mask", "targets", "mask")
    return {
        f"{name}{number}": getattr(batch, name)
        for number, batch in enumerate(batches)
        for name in names
    }


if __name__ == "__main__":
    main()
