"""From text to numpy batches; no jax."""

from balora_jax.data.answers import NO_CLASS, Answers, encode_with_answers, question
from balora_jax.data.batch import DTYPES, SCORE_DTYPE, Batch
from balora_jax.data.batches import collate, eval_batches, steps_for, train_batches
from balora_jax.data.conversations import conversation_field, prompt_of, read_conversations
from balora_jax.data.examples import Examples, require_vocabulary
from balora_jax.data.fingerprints import fingerprint, tokenizer_fingerprint
from balora_jax.data.glue import HUB_SET, TASKS, TextTask, find_task
from balora_jax.data.lengths import (
    bucket_lengths,
    padded_length,
    sampled_lengths,
    used_lengths,
)
from balora_jax.data.orders import (
    given_order,
    length_order,
    shown_rows,
    shuffled_order,
    windowed_order,
)
from balora_jax.data.packing import PackedRows, pack_all, plan_rows
from balora_jax.data.pairs import prepare, read_rows, tokenize, tokenize_prompts
from balora_jax.data.prompts import Template, make_template
from balora_jax.data.source_contents import source_contents
from balora_jax.data.sources import Rows, load_rows
from balora_jax.data.submission import write_predictions
from balora_jax.data.text_sets import (
    TextSets,
    read_held_out_rows,
    read_text_sets,
    read_train_rows,
    text_task,
)
from balora_jax.data.texts import encode
from balora_jax.data.tokenizer import load_tokenizer, token_ids

__all__ = [
    "DTYPES",
    "HUB_SET",
    "NO_CLASS",
    "SCORE_DTYPE",
    "TASKS",
    "Answers",
    "Batch",
    "Examples",
    "PackedRows",
    "Rows",
    "Template",
    "TextSets",
    "TextTask",
    "bucket_lengths",
    "collate",
    "conversation_field",
    "encode",
    "encode_with_answers",
    "eval_batches",
    "find_task",
    "fingerprint",
    "given_order",
    "length_order",
    "load_rows",
    "load_tokenizer",
    "make_template",
    "pack_all",
    "padded_length",
    "plan_rows",
    "prepare",
    "prompt_of",
    "question",
    "read_conversations",
    "read_held_out_rows",
    "read_rows",
    "read_text_sets",
    "read_train_rows",
    "require_vocabulary",
    "sampled_lengths",
    "shown_rows",
    "shuffled_order",
    "source_contents",
    "steps_for",
    "text_task",
    "token_ids",
    "tokenize",
    "tokenize_prompts",
    "tokenizer_fingerprint",
    "train_batches",
    "used_lengths",
    "windowed_order",
    "write_predictions",
]
