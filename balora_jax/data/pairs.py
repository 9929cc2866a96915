"""Tokenized pairs of a prompt and its answer, for next-token prediction."""

import contextlib
import dataclasses
import itertools
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np

from balora_jax.config import DataConfig
from balora_jax.data.conversations import (
    conversation_field,
    prompt_of,
    read_conversations,
    tokenize_conversation,
)
from balora_jax.data.examples import Examples
from balora_jax.data.fields import read_fields, read_prompt_fields, recognize_fields
from balora_jax.data.growing import GrowingExamples
from balora_jax.data.mixtures import join_examples
from balora_jax.data.prompts import Template, make_template
from balora_jax.data.sources import Rows, load_rows
from balora_jax.data.splits import divide
from balora_jax.data.tokenizer import token_ids
from balora_jax.errors import BadInput, shown

# Rows tokenized at once: enough to keep the tokenizer's threads busy, little to hold in memory.
CHUNK = 1000

Pair = tuple[np.ndarray, np.ndarray]


def prepare(
    config: DataConfig,
    tokenizer: Any,
    split: Literal["train", "eval"] = "train",
    folder: Path | None = None,
) -> Examples:
    """Load and tokenize a data set.

    Args:
      config: the sources of the rows, and the template that makes text of them.
      tokenizer: a Hugging Face tokenizer.
      split: the training set, or the held-out set (`config.holds_out` is True then).
      folder: an empty folder for the arrays, which are read from there as they are needed: memory
        does not grow with the set. None to have all in memory.

    Raises:
      BadInput: the rows cannot be loaded, lack a field, or leave no answer to learn from.
    """
    sources = [config] if split == "eval" and config.eval_share is None else config.sources
    if len(sources) == 1:
        return _prepare_source(sources[0], tokenizer, split, folder)
    weights = config.weights if split == "train" else None
    with contextlib.ExitStack() as closing:
        pieces = []
        for source in sources:
            place = None
            if folder is not None:
                place = Path(closing.enter_context(tempfile.TemporaryDirectory(dir=folder)))
            pieces.append(_prepare_source(source, tokenizer, split, place))
        return join_examples(pieces, config.source_names, weights, folder)


def _prepare_source(
    config: DataConfig, tokenizer: Any, split: Literal["train", "eval"], folder: Path | None
) -> Examples:
    """Tokenize the rows of one source."""
    template = make_template(config.template, tokenizer)
    rows = read_rows(config, split, folder)
    field = conversation_field(rows.columns)
    if field is not None and not config.fields:
        if config.template == "chat":
            return _prepare_conversations(rows, field, config, tokenizer, folder)
        if not set(template.names) <= set(rows.columns):
            raise BadInput(
                f"{rows.source} holds conversations ({field}), and data.template is "
                f"{shown(config.template)}; accepted: data.template chat"
            )
    fields = recognize_fields(rows.columns, (*template.names, "response"), config.fields)
    texts = read_fields(rows, template, fields)
    examples = tokenize(
        texts,
        template,
        tokenizer,
        max_length=config.max_length,
        source=rows.source,
        folder=folder,
    )
    return dataclasses.replace(examples, recognized={} if config.fields else fields)


def read_rows(
    config: DataConfig, split: Literal["train", "eval"] = "train", folder: Path | None = None
) -> Rows:
    """Load the rows of a set, as `prepare` tokenizes them.

    Args:
      config: as for `prepare`, with one source.
      split: as for `prepare`.
      folder: as for `load_rows`.

    Raises:
      BadInput: they cannot be loaded.
    """
    if split == "eval" and config.eval_share is None:
        return load_rows(
            config.eval,
            subset=config.subset,
            split=config.eval_split,
            limit=config.eval_limit,
            folder=folder,
        )
    rows = load_rows(
        config.train,
        subset=config.subset,
        split=config.train_split,
        limit=config.limit,
        folder=folder,
    )
    if config.eval_share is None:
        return rows
    division = divide(rows.source, [None] * len(rows.rows), config.eval_share)
    if split == "train":
        return rows.select(division.train.tolist())
    return rows.select(division.held_out[: config.eval_limit].tolist())


def _prepare_conversations(
    rows: Rows, field: str, config: DataConfig, tokenizer: Any, folder: Path | None
) -> Examples:
    """Tokenize conversations into examples of at most `max_length` tokens."""
    growing = _growing(tokenizer, folder, has_counted=True)
    for index, messages in enumerate(read_conversations(rows, field)):
        with _named(rows.where(index)):
            tokens, counted = tokenize_conversation(tokenizer, messages, config.loss_on)
        cut = counted[: config.max_length]
        # No position predicts the first token.
        if not counted[1:].any():
            growing.dropped_empty += 1
        elif not cut[1:].any():
            growing.dropped_long += 1
        else:
            growing.add(index, tokens[: config.max_length], int(cut.argmax()), cut)
            growing.truncated += len(tokens) > config.max_length
    if not len(growing):
        raise BadInput(
            f"no conversation of {rows.source} has an answer within data.max_length "
            f"{config.max_length} tokens ({growing.dropped_empty} have none, of "
            f"{growing.dropped_long} it begins later); "
            "accepted: turns of an assistant, and room for them"
        )
    return growing.finish(recognized={"turns": field})


@contextlib.contextmanager
def _named(where: str) -> Iterator[None]:
    """Begin the message on a conversation with its place."""
    try:
        yield
    except BadInput as error:
        raise BadInput(f"{where}: {error}") from error


def tokenize_prompts(
    rows: Rows, config: DataConfig, template: Template, tokenizer: Any
) -> list[list[int]]:
    """Tokenize the prompts of rows, which need no answers, as in training.

    Args:
      rows: from `load_rows`.
      config: the fields of the template's names.
      template: from `make_template`.
      tokenizer: a Hugging Face tokenizer.

    Returns:
      The tokens of each prompt.

    Raises:
      BadInput: a field is missing or holds no text, or a prompt has no tokens.
    """
    field = conversation_field(rows.columns)
    if field is not None and config.template == "chat" and not config.fields:
        conversations = list(read_conversations(rows, field))
        return [prompt_of(tokenizer, messages) for messages in conversations]
    fields = recognize_fields(rows.columns, template.names, config.fields)
    texts = read_prompt_fields(rows, template, fields)
    start = _start_tokens(tokenizer) if template.adds_special_tokens else []
    rendered = [template.render(text) for text in texts]
    prompts = [start + ids for ids in _token_ids(tokenizer, rendered)] if rendered else []
    for index, prompt in enumerate(prompts):
        if not prompt:
            raise BadInput(
                f"{rows.where(index)}: the prompt has no tokens; accepted: a text of at least one"
            )
    return prompts


def tokenize(
    texts: Iterator[Mapping[str, str]],
    template: Template,
    tokenizer: Any,
    *,
    max_length: int,
    source: str,
    folder: Path | None = None,
) -> Examples:
    """Tokenize prompts and answers into examples of at most `max_length` tokens.

    Prompt and answer are tokenized apart and joined as tokens. No merge of the tokenizer crosses
    the boundary, and the prompt has the tokens that it has in generation.

    Args:
      texts: the values of the template's names, and of `response`, for each row.
      template: from `make_template`.
      tokenizer: a Hugging Face tokenizer.
      max_length: tokens of prompt, answer and ending together; a longer example loses the end of
        its answer.
      source: the name of the data set, for messages.
      folder: as for `prepare`.

    Raises:
      BadInput: no row has an answer, or no prompt leaves room for one.
    """
    growing = _growing(tokenizer, folder)
    ending = np.array(template.ending, np.int32)
    shortest = None
    for row, (prompt, answer) in enumerate(_tokenize_pairs(texts, template, tokenizer)):
        if not len(answer):
            growing.dropped_empty += 1
        elif len(prompt) >= max_length:
            growing.dropped_long += 1
            shortest = len(prompt) if shortest is None else min(shortest, len(prompt))
        else:
            tokens = np.concatenate([prompt, answer, ending])
            growing.add(row, tokens[:max_length], len(prompt))
            growing.truncated += len(tokens) > max_length
    if not len(growing) and shortest is None:
        raise BadInput(
            f"none of the {growing.dropped_empty} rows of {source} has an answer; accepted: at "
            "least one row with text in its response (data.fields)"
        )
    if not len(growing):
        raise BadInput(
            f"every answer of {source} is truncated away: prompts are at least {shortest} tokens "
            f"long and data.max_length is {max_length}; accepted: more than {shortest}"
        )
    return growing.finish()


def _growing(tokenizer: Any, folder: Path | None, *, has_counted: bool = False) -> GrowingExamples:
    return GrowingExamples(
        folder,
        pad_id=tokenizer.pad_token_id,
        bos_id=tokenizer.bos_token_id,
        has_counted=has_counted,
    )


def _tokenize_pairs(
    texts: Iterator[Mapping[str, str]], template: Template, tokenizer: Any
) -> Iterator[Pair]:
    """Yield the tokens of each prompt and answer; an answer of blanks has no tokens."""
    start = _start_tokens(tokenizer) if template.adds_special_tokens else []

    def tokenize_chunk(chunk: Sequence[Mapping[str, str]]) -> list[Pair]:
        responses = [text["response"] for text in chunk]
        prompts = _token_ids(tokenizer, [template.render(text) for text in chunk])
        answers = _token_ids(tokenizer, [text if text.strip() else "" for text in responses])
        return [
            (np.array(start + prompt, np.int32), np.array(answer, np.int32))
            for prompt, answer in zip(prompts, answers, strict=True)
        ]

    # While the tokenizer's threads work on a chunk, the rows of the next one are read, and the
    # examples of the one before are made.
    with ThreadPoolExecutor(1) as ahead:
        waiting: Future[list[Pair]] | None = None
        while chunk := list(itertools.islice(texts, CHUNK)):
            following = ahead.submit(tokenize_chunk, chunk)
            if waiting is not None:
                yield from waiting.result()
            waiting = following
        if waiting is not None:
            yield from waiting.result()


def _token_ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    return token_ids(tokenizer, list(texts), add_special_tokens=False)["input_ids"]


def _start_tokens(tokenizer: Any) -> list[int]:
    """Return the tokens that the tokenizer itself puts before a text: BOS, or none."""
    plain = token_ids(tokenizer, ["a"], add_special_tokens=False)["input_ids"][0]
    whole = token_ids(tokenizer, ["a"], add_special_tokens=True)["input_ids"][0]
    for start in range(len(whole)):
        if whole[start : start + len(plain)] == plain:
            return list(whole[:start])
    return []
