"""Make the tiny model and its data.

    python -m balora_jax.evaluation.tiny_world.make --out DIR [--seed 0]

Writes DIR/model (a Hugging Face folder in bfloat16), DIR/train.jsonl and DIR/test.jsonl (the
fine-tuning set) and DIR/measured.json (the measures of the probes). The model is pre-trained by a
run of method `full`, whose run folder is DIR/pretraining. About 10 minutes of processor time.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from balora_jax.errors import BadInput
from balora_jax.evaluation.tiny_world.corpus import PARAGRAPH, make_corpus
from balora_jax.evaluation.tiny_world.probes import TEMPLATE, Measure, make_probes, measure
from balora_jax.evaluation.tiny_world.questions import Row, make_questions, write_rows
from balora_jax.evaluation.tiny_world.vocabulary import make_tokenizer, save_tokenizer
from balora_jax.evaluation.tiny_world.world import World, make_world, write_world
from balora_jax.models import load_pretrained, save_pretrained

ARCHITECTURE = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 128,
    "intermediate_size": 448,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "hidden_act": "silu",
    "max_position_embeddings": 256,
    # Larger than the usual 0.02, with which a model this narrow takes twice as long to start.
    "initializer_range": 0.05,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "attention_bias": False,
    "mlp_bias": False,
}


def make(out: Path, seed: int) -> dict[str, Measure]:
    """Make the world, the data and the model, and measure the model.

    Args:
      out: a new or empty folder for everything.
      seed: the random seed of the world, the corpus and the training.

    Returns:
      The measures by name.

    Raises:
      BadInput: `out` is not empty.
    """
    if out.exists() and any(out.iterdir()):
        raise BadInput(f"--out {out} is not empty; accepted: a new or empty folder")
    world = make_world(seed)
    train, test = make_questions(seed)
    write_rows(out / "train.jsonl", train)
    write_rows(out / "test.jsonl", test)
    write_world(out, world)
    tokenizer = write_scratch(out / "scratch", world, train + test, seed)
    merged = _pretrain(out, seed)
    _, stored = load_pretrained(merged, dtype="bfloat16")
    save_pretrained(out / "model", stored, source=merged)
    model, params = load_pretrained(out / "model")
    return measure(model, params, {}, make_probes(world, tokenizer, train, test))


def write_scratch(folder: Path, world: World, rows: list[Row], seed: int) -> Any:
    """Write the corpus, the tokenizer and the architecture, from which pre-training starts.

    Args:
      folder: the folder to write to.
      world: from `make_world`.
      rows: the fine-tuning set, whose words the tokenizer must know.
      seed: the random seed of the corpus.

    Returns:
      The tokenizer.
    """
    paragraphs = list(make_corpus(world, seed))
    questions = [f"{TEMPLATE.format(question=row['question'])} {row['answer']}" for row in rows]
    tokenizer = make_tokenizer([*paragraphs, *questions])
    save_tokenizer(tokenizer, folder)
    ids = {
        f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")
    }
    config = ARCHITECTURE | ids | {"vocab_size": len(tokenizer)}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    write_rows(folder / "corpus.jsonl", [{"text": paragraph} for paragraph in paragraphs])
    return tokenizer


def _pretrain(out: Path, seed: int) -> Path:
    """Train every weight on the corpus and return the folder of the trained model."""
    run = {
        "method": "full",
        "model": {"source": str(out / "scratch"), "dtype": "float32", "from_scratch": True},
        "data": {
            "train": str(out / "scratch" / "corpus.jsonl"),
            "fields": {"response": "text"},
            "template": "plain",
            "max_length": PARAGRAPH + 2,
        },
        "optimizer": {"learning_rate": 2e-3, "warmup": 0.05, "b2": 0.98, "weight_decay": 0.1},
        "training": {"steps": 2000, "batch_size": 32, "precision": "float32", "seed": seed},
        "output": {"dir": str(out / "pretraining"), "save_every": 500},
    }
    config = out / "scratch" / "pretraining.yaml"
    config.write_text(yaml.safe_dump(run, sort_keys=False))
    # In a process of its own, which frees its memory when it ends.
    command = "from balora_jax.cli import main; main()"
    subprocess.run([sys.executable, "-c", command, "train", "--config", str(config)], check=True)
    return out / "pretraining" / "merged"


def describe(measured: dict[str, Measure]) -> dict[str, dict[str, Any]]:
    """Convert measures to JSON values, with their sampling intervals.

    Args:
      measured: from `make`.

    Returns:
      {value, planted, draws, interval} of each measure, by name.
    """
    described = {}
    for name, result in measured.items():
        numbers = {"value": float(result.value), "interval": result.interval}
        described[name] = dataclasses.asdict(result) | numbers
    return described


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Make the tiny world's model and data.")
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument(
        "--seed", type=int, default=0, help="of the world, the corpus and the training"
    )
    options = parser.parse_args()
    try:
        measured = describe(make(options.out, options.seed))
    except BadInput as error:
        parser.error(str(error))
    text = json.dumps(measured, indent=2)
    (options.out / "measured.json").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
