"""The fine-tuning task: questions on sums and reviews, with wrong labels in training alone."""

import itertools
import json
import random
from collections.abc import Sequence
from pathlib import Path

from balora_jax.errors import BadInput
from balora_jax.evaluation.tiny_world.world import BAD, GOOD, GOODS, LARGEST_SUMMAND, NAMES, THINGS

WRONG_SHARE = 0.15
# The share of summand pairs and of word pairs that only the test set asks about.
HELD_OUT = 0.25

SUMS = (
    "What is {a} plus {b}?",
    "How much are {a} and {b} together?",
    "{name} has {a} {goods} and finds {b} more. How many {goods} are there?",
)
REVIEWS = (
    "Is this review good or bad? The {thing} was {x} and {y}.",
    "{name} said that the {thing} was {x} and {y}. Was it good or bad?",
)

Row = dict[str, str]
FIELDS = ("task", "question", "answer", "truth")


def make_questions(seed: int, train: int = 1600, test: int = 400) -> tuple[list[Row], list[Row]]:
    """Draw the fine-tuning set.

    Args:
      seed: the random seed.
      train: the number of training rows, half sums, half reviews.
      test: the number of test rows, half and half. None of their pairs of numbers or words is in a
        training row.

    Returns:
      The training rows and the test rows, each {task, question, answer, truth}. In exactly
      WRONG_SHARE of the training rows of each task the answer is not the truth.
    """
    draw = random.Random(seed)
    train_rows: list[Row] = []
    test_rows: list[Row] = []
    for task, make, pairs in (("sum", _sum, _summands()), ("review", _review, _words())):
        draw.shuffle(pairs)
        held_out = round(HELD_OUT * len(pairs))
        task_rows = _draw_rows(draw, task, make, pairs[held_out:], train // 2)
        test_rows += _draw_rows(draw, task, make, pairs[:held_out], test // 2)
        _spoil(draw, task_rows)
        train_rows += task_rows
    draw.shuffle(train_rows)
    draw.shuffle(test_rows)
    return train_rows, test_rows


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write rows as JSON lines; create the folder if it does not exist.

    Args:
      path: the file.
      rows: the rows.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def read_rows(path: Path) -> list[Row]:
    """Read rows that `write_rows` wrote.

    Args:
      path: the file.

    Raises:
      BadInput: the file does not exist, or its rows are not questions.
    """
    if not path.is_file():
        raise BadInput(f"{path} is not there; accepted: the tiny world's questions")
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return [{name: row[name] for name in FIELDS} for row in rows]
    except (ValueError, TypeError, KeyError) as error:
        raise BadInput(f"{path} holds no questions of a tiny world ({error})") from error


def _summands() -> list[tuple[int, int]]:
    return list(itertools.product(range(LARGEST_SUMMAND + 1), repeat=2))


def _words() -> list[tuple[str, str]]:
    return [*itertools.permutations(GOOD, 2), *itertools.permutations(BAD, 2)]


def _draw_rows(draw: random.Random, task: str, make, allowed: list, count: int) -> list[Row]:
    """Draw `count` different questions."""
    rows: dict[str, Row] = {}
    while len(rows) < count:
        question, truth = make(draw, draw.choice(allowed))
        rows[question] = {"task": task, "question": question, "answer": truth, "truth": truth}
    return list(rows.values())


def _sum(draw: random.Random, pair: tuple[int, int]) -> tuple[str, str]:
    """The question on a sum, and its answer."""
    a, b = pair
    question = draw.choice(SUMS).format(a=a, b=b, name=draw.choice(NAMES), goods=draw.choice(GOODS))
    return question, str(a + b)


def _review(draw: random.Random, pair: tuple[str, str]) -> tuple[str, str]:
    """The question on a review, and its answer."""
    x, y = pair
    question = draw.choice(REVIEWS).format(
        x=x, y=y, name=draw.choice(NAMES), thing=draw.choice(THINGS)
    )
    return question, "good" if x in GOOD else "bad"


def _spoil(draw: random.Random, rows: list[Row]) -> None:
    """Give WRONG_SHARE of the rows a wrong answer."""
    for row in draw.sample(rows, round(WRONG_SHARE * len(rows))):
        row["answer"] = _wrong_answer(draw, row["truth"])


def _wrong_answer(draw: random.Random, truth: str) -> str:
    if truth in ("good", "bad"):
        return "bad" if truth == "good" else "good"
    wrong_sums = [n for n in range(2 * LARGEST_SUMMAND + 1) if n != int(truth)]
    return str(draw.choice(wrong_sums))
