"""Tokenizing of many rows at a first start and at the next one, which reads what was kept.

    python -m benchmarks.tokenizing --tokenizer FOLDER --data TRAIN.jsonl [--rows 100000]

The rows are questions and answers of the file, drawn anew and numbered, so that no two are equal.
"""

import argparse
import json
import os
import pathlib
import random
import resource
import sys
import tempfile
import time

# This process runs without PyTorch, as a plain installation does.
sys.modules.setdefault("torch", None)

from balora_jax import data
from balora_jax.config import DataConfig
from balora_jax.runs.prepared_sets import prepare_set


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokenizer", required=True, help="a Hugging Face folder")
    parser.add_argument("--data", required=True, help="a file of questions and answers")
    parser.add_argument("--rows", type=int, default=100_000)
    options = parser.parse_args()
    tokenizer = data.load_tokenizer(options.tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["BALORA_CACHE"] = f"{folder}/caches"
        path = pathlib.Path(folder) / "train.jsonl"
        write_rows(path, pathlib.Path(options.data), options.rows)
        config = DataConfig(train=str(path), max_length=512)
        for start in ("first", "second"):
            began = time.perf_counter()
            examples = prepare_set(config, tokenizer, "train", print)
            seconds = time.perf_counter() - began
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(
                f"{start} start: {len(examples):,} rows of {examples.lengths.mean():.0f} tokens "
                f"in {seconds:.1f} s, {peak:.0f} MiB at the peak"
            )


def write_rows(path: pathlib.Path, source: pathlib.Path, count: int) -> None:
    """Write so many rows, each a question and an answer of a file."""
    rows = [json.loads(line) for line in source.read_text().splitlines()]
    draw = random.Random(0)
    with path.open("w") as file:
        for number in range(count):
            question = f"{number} {draw.choice(rows)['question']}"
            answer = draw.choice(rows)["answer"]
            file.write(json.dumps({"question": question, "answer": answer}) + "\n")


if __name__ == "__main__":
    main()
