"""Parts of the start of a run, up to its first update, cold and warm.

    python -m benchmarks.startup --model DIR --data FILE.jsonl

Two processes train one update each, with a cache folder of their own that is empty for the first.
Processor time counts all threads; on a shared machine it says more than the time that passes.
"""

import argparse
import contextlib
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

from benchmarks.measure import write

PARTS: dict[str, list[float]] = {}


@contextlib.contextmanager
def part(name: str) -> Iterator[None]:
    """Add the processor time and the time that a part takes to those of its name."""
    processor = time.process_time()
    clock = time.perf_counter()
    try:
        yield
    finally:
        PARTS[name] = [
            PARTS.get(name, [0.0, 0.0])[0] + time.process_time() - processor,
            PARTS.get(name, [0.0, 0.0])[1] + time.perf_counter() - clock,
        ]


def timed(module: object, function: str, name: str) -> None:
    """Time a function of a module wherever it is called from there."""
    called = getattr(module, function)

    @functools.wraps(called)
    def wrapper(*arguments, **options):
        with part(name):
            return called(*arguments, **options)

    setattr(module, function, wrapper)


def start(arguments: list[str]) -> None:
    """Run one update, and print the parts."""
    from balora_jax.cli import main

    began = time.perf_counter()
    with part("imports"):
        from balora_jax.cli import _leave_torch_out

        _leave_torch_out()
        from balora_jax import data
        from balora_jax.runs import causal_lm, finetune, restoring

    timed(data, "load_tokenizer", "the tokenizer")
    timed(causal_lm, "prepare_set", "the tokenized sets")
    timed(restoring, "load_model", "loading the weights")
    timed(restoring, "fingerprints", "fingerprints of data and weights")
    timed(restoring, "init_adapters", "dispatching the adapters (PiSSA)")
    timed(restoring, "start_student", "the state, and the wait for the adapters")
    timed(restoring, "compile_step", "tracing and compiling the update")
    timed(finetune, "train", "the first update")
    timed(finetune, "set_up", "up to the weights")
    timed(finetune, "restore", "up to the first update")
    main(["train", *arguments])
    PARTS["whole process"] = [time.process_time(), time.perf_counter() - began]
    print(json.dumps(PARTS))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="a Hugging Face folder")
    parser.add_argument("--data", required=True, help="a file of questions and answers")
    options, more = parser.parse_known_args()
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        environment = {name: value for name, value in os.environ.items() if name[:4] != "JAX_"}
        environment["BALORA_CACHE"] = f"{folder}/caches"
        for state in ("cold", "warm"):
            command = [sys.executable, "-m", "benchmarks.startup", "--start"]
            command += ["--model.source", options.model, "--data.train", options.data]
            command += ["--training.steps", "1", "--training.batch_size", "4"]
            command += ["--output.dir", f"{folder}/{state}", *more]
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            if done.returncode:
                sys.exit(done.stderr)
            results[state] = json.loads(done.stdout.splitlines()[-1])
    for name in results["cold"]:
        cold = results["cold"][name]
        warm = results["warm"][name]
        print(
            f"{name:36} cold {cold[0]:6.1f} s ({cold[1]:.1f})  warm {warm[0]:6.1f} ({warm[1]:.1f})"
        )
    write("startup", results)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--start"]:
        start(sys.argv[2:])
    else:
        main()
