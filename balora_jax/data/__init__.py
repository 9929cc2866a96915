"""From text to numpy batches; no jax."""

from balora_jax.data.batches import (
    collate,
    eval_batches,
    padded_length,
    require_vocabulary,
    steps_for,
    train_batches,
)
from balora_jax.data.buckets import bucket_lengths, eval_text_batches, train_text_batches
from balora_jax.data.examples import Counts, Examples, prepare, tokenize
from balora_jax.data.glue import HUB_SET, TASKS, TextTask, find_task
from balora_jax.data.pairs import LabeledTexts, encode
from balora_jax.data.prompts import Template, make_template
from balora_jax.data.sources import Rows, load_rows
from balora_jax.data.tokenizer import load_tokenizer

__all__ = [
    "HUB_SET",
    "TASKS",
    "Counts",
    "Examples",
    "LabeledTexts",
    "Rows",
    "Template",
    "TextTask",
    "bucket_lengths",
    "collate",
    "encode",
    "eval_batches",
    "eval_text_batches",
    "find_task",
    "load_rows",
    "load_tokenizer",
    "make_template",
    "padded_length",
    "prepare",
    "require_vocabulary",
    "steps_for",
    "tokenize",
    "train_batches",
    "train_text_batches",
]
