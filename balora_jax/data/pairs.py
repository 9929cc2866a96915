"""Tokenized pairs of a prompt and its answer, for next-token prediction."""

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from balora_jax.config import DataConfig
from balora_jax.data.conversations import (
    conversation_field,
    prompt_of,
    read_conversations,
    tokenize_conversation,
)
from balora_jax.data.examples import Examples, starts_of
from balora_jax.data.fields import read_fields, read_prompt_fields, recognize_fields
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
    config: DataConfig, tokenizer: Any, split: Literal["train", "eval"] = "train"
) -> Examples:
    """Load and tokenize a data set.

    Args:
      config: the sources of the rows, and the template that makes text of them.
      tokenizer: a Hugging Face tokenizer.
      split: the training set, or the held-out set (`config.holds_out` is True then).

    Raises:
      BadInput: the rows cannot be loaded, lack a field, or leave no answer to learn from.
    """
    if split == "eval" and config.eval_share is None:
        return _prepare_source(config, tokenizer, split)
    pieces = [_prepare_source(source, tokenizer, split) for source in config.sources]
    weights = config.weights if split == "train" else None
    return join_examples(pieces, config.source_names, weights)


def _prepare_source(
    config: DataConfig, tokenizer: Any, split: Literal["train", "eval"]
) -> Examples:
    """Tokenize the rows of one source."""
    template = make_template(config.template, tokenizer)
    rows = read_rows(config, split)
    field = conversation_field(rows.columns)
    if field is not None and not config.fields:
        if config.template == "chat":
            return _prepare_conversations(rows, field, config, tokenizer)
        if not set(template.names) <= set(rows.columns):
            raise BadInput(
                f"{rows.source} holds conversations ({field}), and data.template is "
                f"{shown(config.template)}; accepted: data.template chat"
            )
    fields = recognize_fields(rows.columns, (*template.names, "response"), config.fields)
    texts = read_fields(rows, template, fields)
    examples = tokenize(
        texts, template, tokenizer, max_length=config.max_length, source=rows.source
    )
    return dataclasses.replace(examples, recognized={} if config.fields else fields)


def read_rows(config: DataConfig, split: Literal["train", "eval"] = "train") -> Rows:
    """Load the rows of a set, as `prepare` tokenizes them.

    Args:
      config: as for `prepare`, with one source.
      split: as for `prepare`.

    Raises:
      BadInput: they cannot be loaded.
    """
    if split == "eval" and config.eval_share is None:
        return load_rows(
            config.eval, subset=config.subset, split=config.eval_split, limit=config.eval_limit
        )
    rows = load_rows(
        config.train, subset=config.subset, split=config.train_split, limit=config.limit
    )
    if config.eval_share is None:
        return rows
    division = divide(rows.source, [None] * len(rows.rows), config.eval_share)
    if split == "train":
        return rows.select(division.train.tolist())
    return rows.select(division.held_out[: config.eval_limit].tolist())


def _prepare_conversations(rows: Rows, field: str, config: DataConfig, tokenizer: Any) -> Examples:
    """Tokenize conversations into examples of at most `max_length` tokens."""
    fitting = []
    kept = []
    silent = 0
    long = 0
    truncated = 0
    for index, messages in enumerate(read_conversations(rows, field)):
        with _named(rows.where(index)):
            tokens, counted = tokenize_conversation(tokenizer, messages, config.loss_on)
        cut = counted[: config.max_length]
        # No position predicts the first token.
        if not counted[1:].any():
            silent += 1
        elif not cut[1:].any():
            long += 1
        else:
            fitting.append((tokens[: config.max_length], cut))
            kept.append(index)
            truncated += len(tokens) > config.max_length
    if not fitting:
        raise BadInput(
            f"no conversation of {rows.source} has an answer within data.max_length "
            f"{config.max_length} tokens ({silent} have none, of {long} it begins later); "
            "accepted: turns of an assistant, and room for them"
        )
    tokens = [example for example, _ in fitting]
    return Examples(
        tokens=np.concatenate(tokens),
        starts=starts_of(tokens),
        pad_id=tokenizer.pad_token_id,
        prompt_lengths=np.array([counted.argmax() for _, counted in fitting], np.int32),
        counted=np.concatenate([counted for _, counted in fitting]),
        recognized={"turns": field},
        rows=np.array(kept),
        doubled_start=_doubled_starts(tokens, tokenizer),
        truncated=truncated,
        dropped_empty=silent,
        dropped_long=long,
    )


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

    Raises:
      BadInput: no row has an answer, or no prompt leaves room for one.
    """
    pairs = list(_tokenize_pairs(texts, template, tokenizer))
    answered = [index for index, (_, answer) in enumerate(pairs) if len(answer)]
    kept = [index for index in answered if len(pairs[index][0]) < max_length]
    fitting = [pairs[index] for index in kept]
    if not answered:
        raise BadInput(
            f"none of the {len(pairs)} rows of {source} has an answer; accepted: at least one "
            "row with text in its response (data.fields)"
        )
    if not fitting:
        shortest = min(len(pairs[index][0]) for index in answered)
        raise BadInput(
            f"every answer of {source} is truncated away: prompts are at least {shortest} tokens "
            f"long and data.max_length is {max_length}; accepted: more than {shortest}"
        )
    ending = np.array(template.ending, np.int32)
    joined = [np.concatenate([prompt, answer, ending]) for prompt, answer in fitting]
    cut = [tokens[:max_length] for tokens in joined]
    return Examples(
        tokens=np.concatenate(cut),
        starts=starts_of(cut),
        pad_id=tokenizer.pad_token_id,
        prompt_lengths=np.array([len(prompt) for prompt, _ in fitting], np.int32),
        rows=np.array(kept),
        doubled_start=_doubled_starts(cut, tokenizer),
        truncated=sum(len(tokens) > max_length for tokens in joined),
        dropped_empty=len(pairs) - len(answered),
        dropped_long=len(answered) - len(fitting),
    )


def _doubled_starts(examples: Sequence[np.ndarray], tokenizer: Any) -> int:
    """Count the examples whose template and tokenizer have both written BOS."""
    bos = tokenizer.bos_token_id
    return sum(len(ids) > 1 and ids[0] == ids[1] == bos for ids in examples)


def _tokenize_pairs(
    texts: Iterator[Mapping[str, str]], template: Template, tokenizer: Any
) -> Iterator[Pair]:
    """Yield the tokens of each prompt and answer; an answer of blanks has no tokens."""
    start = _start_tokens(tokenizer) if template.adds_special_tokens else []
    while chunk := list(itertools.islice(texts, CHUNK)):
        responses = [text["response"] for text in chunk]
        prompts = _token_ids(tokenizer, [template.render(text) for text in chunk])
        answers = _token_ids(tokenizer, [text if text.strip() else "" for text in responses])
        for prompt, answer in zip(prompts, answers, strict=True):
            yield np.array(start + prompt, np.int32), np.array(answer, np.int32)


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
