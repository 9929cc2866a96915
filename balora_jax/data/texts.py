"""Tokenized texts, or pairs of them, with their labels, for classification."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from balora_jax.data.examples import Examples, starts_of
from balora_jax.data.glue import TextTask
from balora_jax.data.labels import read_labels
from balora_jax.data.sources import Rows
from balora_jax.data.tokenizer import token_ids
from balora_jax.errors import BadInput, listed, shown

# Rows tokenized at once: enough to keep the tokenizer's threads busy, little to hold in memory.
CHUNK = 1000

Texts = tuple[str, ...]


class _Encoded(NamedTuple):
    """A tokenized example.

    Attributes:
      tokens: int32 [length].
      token_type_ids: int32 [length].
      truncated: True if the example was cut.
    """

    tokens: np.ndarray
    token_type_ids: np.ndarray
    truncated: bool


def encode(
    rows: Rows,
    task: TextTask,
    tokenizer: Any,
    *,
    max_length: int,
    labeled: bool = True,
    rewrite: Callable[[Texts], Texts] | None = None,
) -> Examples:
    """Tokenize a classification set, with the tokenizer's own special tokens.

    Args:
      rows: from `load_rows`.
      task: the fields of the texts and of the label.
      tokenizer: a Hugging Face tokenizer with a pad token.
      max_length: tokens of an example, special ones included; the longer text of a pair is cut
        first.
      labeled: True if the rows have labels.
      rewrite: maps an example's texts to those that are tokenized, one or a pair; None keeps them.

    Raises:
      BadInput: a field is missing or holds no text, a label is wrong, or the tokenizer has no pad
        token.
    """
    if tokenizer.pad_token_id is None:
        raise BadInput(
            "the tokenizer has no pad token; accepted: one with pad_token, which fills up batches"
        )
    rows.require(task.fields)
    _require_room(tokenizer, 1 if rewrite else len(task.fields), max_length)
    labels = read_labels(rows, task) if labeled else None
    texts = _read_texts(rows, task)
    if rewrite is not None:
        texts = map(rewrite, texts)
    encoded = list(_tokenize_texts(texts, tokenizer, max_length))
    tokens = [example.tokens for example in encoded]
    for index, example in enumerate(tokens):
        # A model would pay attention to nothing, and give NaN.
        if not len(example):
            raise BadInput(
                f"{rows.where(index)}: the text of {listed(task.fields)} has no tokens; "
                "accepted: text of at least one token"
            )
    return Examples(
        tokens=np.concatenate(tokens),
        starts=starts_of(tokens),
        pad_id=tokenizer.pad_token_id,
        token_type_ids=np.concatenate([example.token_type_ids for example in encoded]),
        labels=labels,
        truncated=sum(example.truncated for example in encoded),
    )


def _require_room(tokenizer: Any, texts: int, max_length: int) -> None:
    """Check that an example has room for text beside the special tokens, and is cut at all."""
    special = tokenizer.num_special_tokens_to_add(pair=texts == 2)
    if max_length <= special:
        raise BadInput(
            f"data.max_length is {max_length} and the tokenizer adds {special} special tokens; "
            f"accepted: at least {special + texts}"
        )


def _read_texts(rows: Rows, task: TextTask) -> Iterator[Texts]:
    for index, row in enumerate(rows):
        for field in task.fields:
            text = row.get(field)
            if not isinstance(text, str):
                raise BadInput(f"{rows.where(index)}: {field} is {shown(text)}; accepted: text")
            rows.require_unicode(index, field, text)
        yield tuple(row[field] for field in task.fields)


def _tokenize_texts(texts: Iterator[Texts], tokenizer: Any, max_length: int) -> Iterator[_Encoded]:
    while chunk := list(itertools.islice(texts, CHUNK)):
        encoded = _call(tokenizer, chunk)
        for index, text in enumerate(chunk):
            if len(encoded["input_ids"][index]) > max_length:
                cut = _call(tokenizer, [text], truncation=True, max_length=max_length)
                yield _example(cut, 0, truncated=True)
            else:
                yield _example(encoded, index, truncated=False)


def _example(encoded: dict[str, list[list[int]]], index: int, *, truncated: bool) -> _Encoded:
    tokens = np.array(encoded["input_ids"][index], np.int32)
    token_type_ids = np.zeros_like(tokens)
    if "token_type_ids" in encoded:
        token_type_ids = np.array(encoded["token_type_ids"][index], np.int32)
    return _Encoded(tokens, token_type_ids, truncated)


def _call(tokenizer: Any, texts: list[Texts], **options: Any) -> dict[str, list[list[int]]]:
    # The tokenizer takes first texts and second texts as separate lists.
    columns = (list(column) for column in zip(*texts, strict=True))
    return token_ids(tokenizer, *columns, **options)
