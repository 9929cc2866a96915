"""Labels as text and back, in T5's form (Raffel et al., arXiv 1910.10683, appendix D)."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from balora_jax.data.batch import DTYPES
from balora_jax.data.examples import Examples
from balora_jax.data.glue import TASKS, TextTask
from balora_jax.data.sources import Rows
from balora_jax.data.texts import encode
from balora_jax.data.tokenizer import token_ids
from balora_jax.errors import BadInput

# Intervals between the lowest and the highest score: STS-B's, from 0 to 5, are 0.2 wide.
SCORE_STEPS = 25
# Stands for an answer that names no class.
NO_CLASS = -1


def question(task: TextTask, texts: Sequence[str]) -> str:
    """Write the input of the model: `rte sentence1: ... sentence2: ...`.

    Args:
      task: names the fields. A GLUE task's fields stand in alphabetical order, as in T5 (mnli: the
        hypothesis first), after the task's name; those of a custom task in their own order, without
        a name.
      texts: the contents of the fields, in the task's order.
    """
    named = list(zip(task.fields, texts, strict=True))
    if task.name in TASKS:
        named.sort()
    fields = " ".join(f"{field}: {text}" for field, text in named)
    if task.name in TASKS:
        return f"{task.name} {fields}"
    return fields


def answer_text(task: TextTask, label: float) -> str:
    """Write a label as text: the class's name, or the score to the nearest step (STS-B: `3.4`)."""
    if task.scores is None:
        return task.labels[int(label)]
    low, high = task.scores
    # In float32, as in T5: 0.7 * 5 is 3.5 there, and 3.4999 from float32 to float64.
    lowest = np.float32(low)
    steps = np.float32(SCORE_STEPS / (high - low))
    rounded = lowest + np.round((np.float32(label) - lowest) * steps) / steps
    # Adding 0 removes the sign of a negative zero.
    score = rounded + np.float32(0)
    digits = max(1, math.ceil(math.log10(steps)))
    return f"{score:.{digits}f}"


class Answers:
    """The answers of a task: from labels to tokens, and from generated tokens back to labels."""

    def __init__(self, task: TextTask, tokenizer: Any) -> None:
        """Read the names of the classes as the tokenizer encodes and decodes them.

        Args:
          task: the classes, or the range of the scores.
          tokenizer: a Hugging Face tokenizer.

        Raises:
          BadInput: the tokenizer has no end of sequence, or does not tell two classes apart.
        """
        if tokenizer.eos_token_id is None:
            raise BadInput(
                "the tokenizer has no end-of-sequence token; accepted: one with eos_token, "
                "to end answers"
            )
        self._task = task
        self._tokenizer = tokenizer
        self._class_tokens = self._tokenize(list(task.labels))
        self._classes = self._read_class_names()

    def encode(self, labels: np.ndarray) -> np.ndarray:
        """Tokenize the answers.

        Args:
          labels: classes or scores, [examples].

        Returns:
          int32 [examples, longest answer], ends included; -1 after an answer's end.
        """
        texts = [answer_text(self._task, label) for label in labels]
        distinct = sorted(set(texts))
        tokens = dict(zip(distinct, self._tokenize(distinct), strict=True))
        # The names of all classes count, so that all sets of a run have one width.
        width = max(len(answer) for answer in [*tokens.values(), *self._class_tokens])
        padded = {text: answer + [-1] * (width - len(answer)) for text, answer in tokens.items()}
        return np.array([padded[text] for text in texts], DTYPES.targets)

    def read(self, tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Turn generated answers into labels.

        Args:
          tokens: the answers, [examples, any length].
          lengths: tokens before the end of each, [examples].

        Returns:
          Classes, int64 [examples], with NO_CLASS where an answer names none; or scores, float64
          [examples], clipped to the task's range, with NaN where an answer is no number.
        """
        texts = [self._decode(row[:length]) for row, length in zip(tokens, lengths, strict=True)]
        if self._task.scores is None:
            return np.array([self._classes.get(text, NO_CLASS) for text in texts], np.int64)
        return np.clip(np.array([_number(text) for text in texts]), *self._task.scores)

    def _read_class_names(self) -> dict[str, int]:
        """Map each class's name, as it is decoded, to its number."""
        classes: dict[str, int] = {}
        for number, tokens in enumerate(self._class_tokens):
            name = self._decode(tokens[:-1])
            if not name or name in classes:
                other = f" and of {self._task.labels[classes[name]]!r}" if name else ""
                raise BadInput(
                    f"the tokenizer makes {name!r} of {self._task.name}'s class "
                    f"{self._task.labels[number]!r}{other}; "
                    "accepted: classes whose names it tells apart"
                )
            classes[name] = number
        return classes

    def _tokenize(self, texts: list[str]) -> list[list[int]]:
        """Tokenize texts, each with an end of sequence."""
        if not texts:
            return []
        encoded = token_ids(self._tokenizer, texts, add_special_tokens=False)
        return [[*tokens, self._tokenizer.eos_token_id] for tokens in encoded["input_ids"]]

    def _decode(self, tokens: Sequence[int]) -> str:
        text = self._tokenizer.decode(
            [int(token) for token in tokens],
            skip_special_tokens=True,
            clean_up_tokenization_spaces=False,
        )
        return text.strip()


def _number(text: str) -> float:
    """Parse a number, whatever spaces the tokenizer puts inside; NaN if the text is none."""
    try:
        number = float("".join(text.split()))
    except ValueError:
        return math.nan
    return number if math.isfinite(number) else math.nan


def encode_with_answers(
    rows: Rows, task: TextTask, tokenizer: Any, *, max_length: int, labeled: bool = True
) -> Examples:
    """Tokenize the questions of a data set, and the answers where it is labeled.

    Args:
      rows: as for `encode`.
      task: as for `encode`.
      tokenizer: as for `encode`, with an end of sequence.
      max_length: tokens of a question, and of an answer; a longer question loses its end, as in T5.
      labeled: as for `encode`.

    Raises:
      BadInput: as `encode`; or the tokenizer cannot write the answers, or an answer is longer than
        `max_length`.
    """
    answers = Answers(task, tokenizer)

    def ask(texts: tuple[str, ...]) -> tuple[str, ...]:
        return (question(task, texts),)

    examples = encode(rows, task, tokenizer, max_length=max_length, labeled=labeled, rewrite=ask)
    if not labeled:
        return examples
    answer_tokens = answers.encode(examples.labels)
    longest = answer_tokens.shape[1]
    if longest > max_length:
        raise BadInput(
            f"data.max_length is {max_length} and {task.name} has answers of {longest} tokens; "
            f"accepted: at least {longest}, or shorter names"
        )
    return dataclasses.replace(examples, answers=answer_tokens)
