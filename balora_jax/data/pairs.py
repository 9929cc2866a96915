"""Tokenized texts, or pairs of them, with their labels."""

import functools
import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from balora_jax.data.batch import DTYPES, SCORE_DTYPE
from balora_jax.data.glue import TextTask
from balora_jax.data.sources import Rows
from balora_jax.errors import BadInput

# Rows tokenized at once.
CHUNK = 1000

Texts = tuple[str, ...]


@dataclass(frozen=True)
class LabeledTexts:
    """Tokenized examples, end to end in one array; `texts[i]` is one of them.

    Args:
        tokens: int32 [all tokens], with the tokenizer's own special tokens.
        segments: int32 [all tokens], 1 on a second text where the tokenizer marks it, else 0.
        starts: int64 [examples + 1], where each begins; the last is the end.
        labels: [examples], int32 classes or float32 scores; None for rows without (a test split).
        pad_id: the token batches are padded with.
        truncated: examples cut at the longest length allowed.
        teacher: float32 [examples, ...], what the pre-trained model makes of each; None where nobody asks it.
        answers: int32 [examples, longest answer], the tokens of a label that is written as text, -1 after its end;
            None where labels are numbers.
    """

    tokens: np.ndarray
    segments: np.ndarray
    starts: np.ndarray
    labels: np.ndarray | None
    pad_id: int
    truncated: int
    teacher: np.ndarray | None = None
    answers: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """An example's tokens and segments."""
        span = slice(self.starts[index], self.starts[index + 1])
        return self.tokens[span], self.segments[span]

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each example."""
        return np.diff(self.starts)

    @property
    def largest_token(self) -> int:
        """Of texts and answers."""
        return max(
            int(tokens.max()) for tokens in (self.tokens, self.answers) if tokens is not None
        )

    def __str__(self) -> str:
        cut = f", {self.truncated:,} truncated" if self.truncated else ""
        answers = "" if self.answers is None else f", answers of at most {self.answers.shape[1]}"
        longest = self.lengths.max()
        return f"{len(self):,} examples{cut}; {len(self.tokens):,} tokens, at most {longest} an example{answers}"


def read_labels(rows: Rows, task: TextTask) -> np.ndarray:
    """Each row's label.

    Args:
        rows: from load_rows.
        task: says which classes there are, or between which scores.

    Returns:
        int32 classes or float32 scores [rows].

    Raises:
        BadInput: a label is missing, of another type, or out of range; says where.
    """
    _require_fields(rows, (task.label_field,))
    read = _score if task.scores else functools.partial(_class, known=_known(task))
    values = [
        read(row.get(task.label_field), task, rows.where(index))
        for index, row in enumerate(rows.rows)
    ]
    return np.array(values, SCORE_DTYPE if task.scores else DTYPES.targets)


def encode(
    rows: Rows,
    task: TextTask,
    tokenizer: Any,
    *,
    max_length: int,
    labeled: bool = True,
    form: Callable[[Texts], Texts] = lambda texts: texts,
) -> LabeledTexts:
    """Tokenize a data set's texts as the tokenizer joins them.

    Args:
        rows: from load_rows.
        task: which fields hold the texts.
        tokenizer: a Hugging Face tokenizer with a pad token.
        max_length: tokens an example, special ones counted; the longer text of a pair is cut first.
        labeled: whether the rows have labels.
        form: an example's texts -> what the tokenizer is given, one text or a pair.

    Raises:
        BadInput: a field is missing or holds no text, a label is wrong, or the tokenizer has no pad token.
    """
    if tokenizer.pad_token_id is None:
        raise BadInput(
            "the tokenizer has no pad token; accepted: one with pad_token, which fills up batches"
        )
    _require_fields(rows, task.fields)
    labels = read_labels(rows, task) if labeled else None
    encoded = list(_encode(map(form, _texts(rows, task)), tokenizer, max_length))
    lengths = np.array([len(tokens) for tokens, _, _ in encoded], np.int64)
    return LabeledTexts(
        tokens=np.concatenate([tokens for tokens, _, _ in encoded]),
        segments=np.concatenate([segments for _, segments, _ in encoded]),
        starts=np.concatenate([[0], np.cumsum(lengths)]),
        labels=labels,
        pad_id=tokenizer.pad_token_id,
        truncated=sum(cut for _, _, cut in encoded),
    )


def _require_fields(rows: Rows, fields: tuple[str, ...]) -> None:
    missing = [field for field in fields if field not in rows.columns]
    if missing:
        raise BadInput(
            f"{rows.source} has no field {', '.join(missing)}; it has: {', '.join(rows.columns)}"
        )


def _known(task: TextTask) -> dict[str, int]:
    """What each class may be called: its name, or its number unless some class has a number for a name."""
    names = {name: number for number, name in enumerate(task.labels)}
    if any(re.fullmatch(r"-?\d+", name) for name in names):
        return names
    return {str(number): number for number in names.values()} | names


def _class(value: Any, task: TextTask, where: str, *, known: Mapping[str, int]) -> int:
    if isinstance(value, str | int) and not isinstance(value, bool):
        for name in (str(value), str(value).strip()):
            if name in known:
                return known[name]
    numbered = len(known) > len(task.labels)
    there = ", ".join(
        f"{number} ({label})" if numbered else label for number, label in enumerate(task.labels)
    )
    raise BadInput(f"{where}: {task.label_field} is {value!r}; {task.name} accepts: {there}")


def _score(value: Any, task: TextTask, where: str) -> float:
    low, high = task.scores
    try:
        score = float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        score = float("nan")
    if low <= score <= high:
        return score
    raise BadInput(
        f"{where}: {task.label_field} is {value!r}; {task.name} accepts: a number from {low:g} to {high:g}"
    )


def _texts(rows: Rows, task: TextTask) -> Iterator[Texts]:
    for index, row in enumerate(rows.rows):
        texts = tuple(row.get(field) for field in task.fields)
        if not all(isinstance(text, str) for text in texts):
            bad = next(
                field
                for field, text in zip(task.fields, texts, strict=True)
                if not isinstance(text, str)
            )
            raise BadInput(f"{rows.where(index)}: {bad} is {row.get(bad)!r}; accepted: text")
        yield texts


def _encode(
    texts: Iterator[Texts], tokenizer: Any, max_length: int
) -> Iterator[tuple[np.ndarray, np.ndarray, bool]]:
    """Each example's tokens, its segments, and whether it was cut."""
    while chunk := list(itertools.islice(texts, CHUNK)):
        whole = _call(tokenizer, chunk)
        for index, text in enumerate(chunk):
            cut = len(whole["input_ids"][index]) > max_length
            found, at = (
                (_call(tokenizer, [text], truncation=True, max_length=max_length), 0)
                if cut
                else (whole, index)
            )
            tokens = np.array(found["input_ids"][at], np.int32)
            marked = found.get("token_type_ids")
            yield (
                tokens,
                np.zeros_like(tokens) if marked is None else np.array(marked[at], np.int32),
                cut,
            )


def _call(tokenizer: Any, texts: list[Texts], **options: Any) -> dict[str, list[list[int]]]:
    columns = (list(column) for column in zip(*texts, strict=True))
    # verbose=False: no warning of texts longer than the model's positions, which are cut here.
    return tokenizer(*columns, return_attention_mask=False, verbose=False, **options)
