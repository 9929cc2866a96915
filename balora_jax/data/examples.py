"""Tokenized examples: a prompt, an answer and its end, and which of the tokens count."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from balora_jax.config import DataConfig
from balora_jax.data.fields import read_texts
from balora_jax.data.prompts import Template, make_template
from balora_jax.data.sources import load_rows
from balora_jax.errors import BadInput

# Rows tokenized at once: enough to keep the tokenizer's threads busy, little to hold in memory.
CHUNK = 1000

Pair = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Counts:
    """What became of a data set's rows.

    Args:
        rows: rows looked at.
        used: rows that became examples.
        truncated: of those, answers cut at max_length (so their end is not there to count).
        dropped_empty: rows without an answer.
        dropped_long: rows whose prompt leaves no room for an answer.
        tokens: tokens of all examples.
        counted_tokens: of those, the ones the loss counts (answers and their ends).
    """

    rows: int
    used: int
    truncated: int
    dropped_empty: int
    dropped_long: int
    tokens: int
    counted_tokens: int

    def __str__(self) -> str:
        notes = {
            "answers truncated": self.truncated,
            "dropped without an answer": self.dropped_empty,
            "dropped for a prompt that fills max_length": self.dropped_long,
        }
        parts = [f"{self.used:,} of {self.rows:,} rows used"]
        parts += [f"{count:,} {note}" for note, count in notes.items() if count]
        return (
            ", ".join(parts) + f"; {self.tokens:,} tokens, the loss counts {self.counted_tokens:,}"
        )


@dataclass(frozen=True)
class Examples:
    """Tokenized examples, end to end in one array; `examples[i]` is one of them.

    Args:
        tokens: int32 [all tokens].
        starts: int64 [examples + 1], where each begins; the last is the end.
        prompt_lengths: int32 [examples], tokens that are asked with and not counted.
        pad_id: the token batches are padded with.
        counts: what became of the rows.
    """

    tokens: np.ndarray
    starts: np.ndarray
    prompt_lengths: np.ndarray
    pad_id: int
    counts: Counts

    def __len__(self) -> int:
        return len(self.prompt_lengths)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        """An example's tokens, and how many of them are its prompt."""
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        return self.tokens[self.starts[index] : self.starts[index + 1]], int(
            self.prompt_lengths[index]
        )

    @property
    def longest(self) -> int:
        """Tokens of the longest example."""
        return int(np.diff(self.starts).max())

    @property
    def largest_token(self) -> int:
        """Of prompts and answers."""
        return int(self.tokens.max())


def prepare(
    config: DataConfig, tokenizer: Any, split: Literal["train", "eval"] = "train"
) -> Examples:
    """Load a data set and turn it into examples.

    Args:
        config: where the rows are and how they become text.
        tokenizer: a Hugging Face tokenizer.
        split: the training rows, or the held-out ones (config.eval is not None then).

    Raises:
        BadInput: the rows cannot be loaded, lack a field, or leave no answer to learn from.
    """
    template = make_template(config.template, tokenizer)
    source, part, limit = {
        "train": (config.train, config.train_split, config.limit),
        "eval": (config.eval, config.eval_split, config.eval_limit),
    }[split]
    rows = load_rows(source, subset=config.subset, split=part, limit=limit)
    texts = read_texts(rows, template, config.fields)
    return tokenize(texts, template, tokenizer, max_length=config.max_length, source=rows.source)


def tokenize(
    texts: Iterator[Mapping[str, str]],
    template: Template,
    tokenizer: Any,
    *,
    max_length: int,
    source: str,
) -> Examples:
    """Turn texts into examples of at most max_length tokens.

    Prompt and answer are tokenized apart and joined as tokens. So the boundary lies between two tokens, no merge
    crosses it, and the prompt's tokens are those the model is asked with in generation.

    Args:
        texts: values for the template's names, and `response`.
        template: from make_template.
        tokenizer: a Hugging Face tokenizer.
        max_length: tokens of prompt, answer and ending together; what is longer loses the end of its answer.
        source: the data set's name, for messages.

    Raises:
        BadInput: no row has an answer, or every answer is truncated away.
    """
    pairs = list(_encode(texts, template, tokenizer))
    answered = [(prompt, answer) for prompt, answer in pairs if len(answer)]
    fitting = [(prompt, answer) for prompt, answer in answered if len(prompt) < max_length]
    if not answered:
        raise BadInput(f"none of the {len(pairs)} rows of {source} has an answer")
    if not fitting:
        shortest = min(len(prompt) for prompt, _ in answered)
        raise BadInput(
            f"every answer of {source} is truncated away: prompts are at least {shortest} tokens long and "
            f"data.max_length is {max_length}; accepted: more than {shortest}"
        )
    ending = np.array(template.ending, np.int32)
    joined = [np.concatenate([prompt, answer, ending]) for prompt, answer in fitting]
    return _pack(
        [tokens[:max_length] for tokens in joined],
        [len(prompt) for prompt, _ in fitting],
        pad_id=tokenizer.pad_token_id,
        rows=len(pairs),
        truncated=sum(len(tokens) > max_length for tokens in joined),
        dropped_empty=len(pairs) - len(answered),
        dropped_long=len(answered) - len(fitting),
    )


def _encode(
    texts: Iterator[Mapping[str, str]], template: Template, tokenizer: Any
) -> Iterator[Pair]:
    """Each text's prompt and answer as tokens; no tokens for an answer without text."""
    start = _start_tokens(tokenizer) if template.adds_special_tokens else []
    while chunk := list(itertools.islice(texts, CHUNK)):
        prompts = _ids(tokenizer, [template.render(text) for text in chunk])
        answers = _ids(
            tokenizer, [text["response"] if text["response"].strip() else "" for text in chunk]
        )
        for prompt, answer in zip(prompts, answers, strict=True):
            yield np.array(start + prompt, np.int32), np.array(answer, np.int32)


def _ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    # verbose=False: the tokenizer would warn of texts longer than the model's positions, which are cut here.
    return tokenizer(
        list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False
    )["input_ids"]


def _start_tokens(tokenizer: Any) -> list[int]:
    """The tokens the tokenizer itself puts before a text (BOS, or none)."""
    plain, whole = (
        tokenizer("a", add_special_tokens=special)["input_ids"] for special in (False, True)
    )
    starts = (i for i in range(len(whole)) if whole[i : i + len(plain)] == plain)
    return list(whole[: next(starts, 0)])


def _pack(
    joined: Sequence[np.ndarray], prompt_lengths: Sequence[int], *, pad_id: int, **counts: int
) -> Examples:
    lengths = np.array([len(tokens) for tokens in joined], np.int64)
    prompts = np.array(prompt_lengths, np.int32)
    # Nothing predicts the first token of all, not even where the prompt is empty.
    counted = int((lengths - np.maximum(prompts, 1)).sum())
    tokens = np.concatenate(joined)
    return Examples(
        tokens=tokens,
        starts=np.concatenate([[0], np.cumsum(lengths)]),
        prompt_lengths=prompts,
        pad_id=pad_id,
        counts=Counts(used=len(joined), tokens=len(tokens), counted_tokens=counted, **counts),
    )
