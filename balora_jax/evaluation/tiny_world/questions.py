"""The fine-tuning task: sums and reviews as questions, some training labels wrong, the test set clean."""

import itertools
import json
import random
from collections.abc import Sequence
from pathlib import Path

from balora_jax.errors import BadInput
from balora_jax.evaluation.tiny_world.world import BAD, GOOD, GOODS, LARGEST_SUMMAND, NAMES, THINGS

WRONG_SHARE = 0.15
# Share of summands and of word pairs that only the test set asks about.
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
        seed: of everything.
        train: training rows, half sums, half reviews.
        test: test rows, likewise; none of their pairs of numbers or words is in a training row.

    Returns:
        (training rows, test rows), each {task, question, answer, truth}. In exactly WRONG_SHARE of either task's
        training rows the answer is not the truth.
    """
    draw = random.Random(seed)
    parts = ([], [])
    for task, make, pairs in (("sum", _sum, _summands()), ("review", _review, _words())):
        draw.shuffle(pairs)
        cut = round(HELD_OUT * len(pairs))
        for rows, allowed, count in zip(
            parts, (pairs[cut:], pairs[:cut]), (train // 2, test // 2), strict=True
        ):
            rows += _draw_rows(draw, task, make, allowed, count)
        _spoil(draw, parts[0][-(train // 2) :])
    for rows in parts:
        draw.shuffle(rows)
    return parts


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write rows as JSON lines, in a folder that is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def read_rows(path: Path) -> list[Row]:
    """The rows that `write_rows` wrote.

    Raises:
      BadInput: the file is not there, or its rows are no questions.
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
    """`count` different questions."""
    rows: dict[str, Row] = {}
    while len(rows) < count:
        question, truth = make(draw, draw.choice(allowed))
        rows[question] = {"task": task, "question": question, "answer": truth, "truth": truth}
    return list(rows.values())


def _sum(draw: random.Random, pair: tuple[int, int]) -> tuple[str, str]:
    a, b = pair
    return draw.choice(SUMS).format(
        a=a, b=b, name=draw.choice(NAMES), goods=draw.choice(GOODS)
    ), str(a + b)


def _review(draw: random.Random, pair: tuple[str, str]) -> tuple[str, str]:
    x, y = pair
    question = draw.choice(REVIEWS).format(
        x=x, y=y, name=draw.choice(NAMES), thing=draw.choice(THINGS)
    )
    return question, "good" if x in GOOD else "bad"


def _spoil(draw: random.Random, rows: list[Row]) -> None:
    for row in draw.sample(rows, round(WRONG_SHARE * len(rows))):
        row["answer"] = _wrong(draw, row["truth"])


def _wrong(draw: random.Random, truth: str) -> str:
    if truth in ("good", "bad"):
        return "bad" if truth == "good" else "good"
    return str(draw.choice([n for n in range(2 * LARGEST_SUMMAND + 1) if n != int(truth)]))
