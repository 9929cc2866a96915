"""Classes and scores as text, in T5's form (Raffel et al., arXiv 1910.10683, appendix D), and back."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from balora_jax.data.batch import DTYPES
from balora_jax.data.glue import TASKS, TextTask
from balora_jax.data.pairs import LabeledTexts, encode
from balora_jax.data.sources import Rows
from balora_jax.errors import BadInput

# Scores are told apart in so many steps: STS-B's, from 0 to 5, to the nearest 0.2.
SCORE_STEPS = 25
# An answer that is none of the classes.
NO_CLASS = -1


def question(task: TextTask, texts: Sequence[str]) -> str:
    """What the model reads: `rte sentence1: ... sentence2: ...`; without the task's name where it is your own.

    Args:
        task: names the fields. Those of a GLUE task stand in alphabetical order, as T5 has them (mnli: the hypothesis
            first), your own in the order of text and text_pair.
        texts: the fields' contents, in the task's order.
    """
    named = list(zip(task.fields, texts, strict=True))
    shown = " ".join(
        f"{field}: {text}" for field, text in (sorted(named) if task.name in TASKS else named)
    )
    return f"{task.name} {shown}" if task.name in TASKS else shown


def answer_text(task: TextTask, label: float) -> str:
    """What the model is to write: the class's name, or the score on a grid of 25 steps (STS-B: `3.4`)."""
    if task.scores is None:
        return task.labels[int(label)]
    # In float32, as T5 has it: 0.7 * 5 is 3.5 there, and 3.4999 after float32 in float64.
    low, steps = (
        np.float32(task.scores[0]),
        np.float32(SCORE_STEPS / (task.scores[1] - task.scores[0])),
    )
    rounded = low + np.round((np.float32(label) - low) * steps) / steps
    # Without the sign of a negative zero.
    return f"{rounded + np.float32(0):.{max(1, math.ceil(math.log10(steps)))}f}"


class Answers:
    """A task's answers as tokens, and what was answered back as classes or scores."""

    def __init__(self, task: TextTask, tokenizer: Any) -> None:
        """Reads the classes' names as the tokenizer makes and unmakes them.

        Raises:
            BadInput: the tokenizer has no end of sequence, or does not tell two classes apart.
        """
        if tokenizer.eos_token_id is None:
            raise BadInput(
                "the tokenizer has no end-of-sequence token; accepted: one with eos_token, to end answers"
            )
        self._task, self._tokenizer = task, tokenizer
        self._classes: dict[str, int] = {}
        for number, tokens in enumerate(self._tokens(list(task.labels))):
            name = self._said(tokens[:-1])
            if not name or name in self._classes:
                raise BadInput(
                    f"the tokenizer makes {name!r} of {task.name}'s class {task.labels[number]!r}"
                    + (f" and of {task.labels[self._classes[name]]!r}" if name else "")
                    + "; accepted: classes whose names it tells apart"
                )
            self._classes[name] = number

    def encode(self, labels: np.ndarray) -> np.ndarray:
        """Labels [examples] -> tokens with the ending, int32 [examples, longest answer]; -1 after an answer's end."""
        texts = [answer_text(self._task, label) for label in labels]
        kinds = sorted(set(texts))
        tokens = dict(zip(kinds, self._tokens(kinds), strict=True))
        # As wide as any class's name, so that all sets of a run have one width.
        width = max(map(len, [*tokens.values(), *self._tokens(list(self._task.labels))]))
        rows = {text: [*found, *[-1] * (width - len(found))] for text, found in tokens.items()}
        return np.array([rows[text] for text in texts], DTYPES.targets)

    def read(self, tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """What was written, as classes or scores.

        Args:
            tokens: [examples, any], the answers.
            lengths: [examples], tokens before their ends.

        Returns:
            [examples]: int64 classes, NO_CLASS for what is none; or float64 scores between the lowest and the highest,
            NaN for what is no number.
        """
        said = [self._said(row[:length]) for row, length in zip(tokens, lengths, strict=True)]
        if self._task.scores is None:
            return np.array([self._classes.get(text, NO_CLASS) for text in said], np.int64)
        return np.clip(np.array([_number(text) for text in said]), *self._task.scores)

    def _tokens(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        found = self._tokenizer(texts, add_special_tokens=False, return_attention_mask=False)[
            "input_ids"
        ]
        return [[*tokens, self._tokenizer.eos_token_id] for tokens in found]

    def _said(self, tokens: Sequence[int]) -> str:
        decode = self._tokenizer.decode
        return decode(
            list(map(int, tokens)), skip_special_tokens=True, clean_up_tokenization_spaces=False
        ).strip()


def _number(text: str) -> float:
    """A number a text is, whatever spaces the tokenizer puts inside; NaN if it is none."""
    try:
        number = float("".join(text.split()))
    except ValueError:
        return math.nan
    return number if math.isfinite(number) else math.nan


def encode_with_answers(
    rows: Rows, task: TextTask, tokenizer: Any, *, max_length: int, labeled: bool = True
) -> LabeledTexts:
    """Tokenize a data set's questions, and its answers where it is labeled; arguments as for `encode`.

    What is longer than max_length loses its end, as in T5.

    Raises:
        BadInput: as `encode`; or the tokenizer cannot write the answers, or one of them is longer than max_length.
    """
    answers = Answers(task, tokenizer)

    def ask(texts: tuple[str, ...]) -> tuple[str, ...]:
        return (question(task, texts),)

    texts = encode(rows, task, tokenizer, max_length=max_length, labeled=labeled, form=ask)
    if not labeled:
        return texts
    written = answers.encode(texts.labels)
    if written.shape[1] > max_length:
        raise BadInput(
            f"data.max_length is {max_length} and {task.name} has answers of {written.shape[1]} tokens; "
            f"accepted: at least {written.shape[1]}, or shorter names"
        )
    return dataclasses.replace(texts, answers=written)
