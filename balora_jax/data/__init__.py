"""From text to numpy batches; no jax."""

from balora_jax.data.answers import NO_CLASS, Answers, encode_with_answers, question
from balora_jax.data.batch import DTYPES, SCORE_DTYPE, Batch
from balora_jax.data.batches import (
    collate,
    eval_batches,
    padded_length,
    require_vocabulary,
    steps_for,
    train_batches,
)
from balora_jax.data.buckets import (
    bucket_lengths,
    collate_texts,
    eval_text_batches,
    seen_rows,
    train_text_batches,
)
from balora_jax.data.examples import Counts, Examples, prepare, tokenize
from balora_jax.data.glue import HUB_SET, TASKS, TextTask, find_task
from balora_jax.data.pairs import LabeledTexts, encode
from balora_jax.data.prompts import Template, make_template
from balora_jax.data.sources import Rows, load_rows
from balora_jax.data.submission import write_predictions
from balora_jax.data.text_sets import TextSets, read_text_sets, text_task
from balora_jax.data.tokenizer import load_tokenizer

__all__ = [
    "DTYPES",
    "HUB_SET",
    "NO_CLASS",
    "SCORE_DTYPE",
    "TASKS",
    "Answers",
    "Batch",
    "Counts",
    "Examples",
    "LabeledTexts",
    "Rows",
    "Template",
    "TextSets",
    "TextTask",
    "bucket_lengths",
    "collate",
    "collate_texts",
    "encode",
    "encode_with_answers",
    "eval_batches",
    "eval_text_batches",
    "find_task",
    "load_rows",
    "load_tokenizer",
    "make_template",
    "padded_length",
    "prepare",
    "question",
    "read_text_sets",
    "require_vocabulary",
    "seen_rows",
    "steps_for",
    "text_task",
    "tokenize",
    "train_batches",
    "train_text_batches",
    "write_predictions",
]
