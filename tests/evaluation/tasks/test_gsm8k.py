"""Scores of answers to rows of GSM8K."""

import json

import pytest

from balora_jax.errors import BadInput
from balora_jax.evaluation.tasks import gsm8k

ROW = {"question": "How many?", "answer": "1200 + 34 = <<1200+34=1234>>1,234.\n#### 1,234"}
SCORES = {
    "So 1,234.\nThe answer is: 1234": (1, 1, 1),
    "The answer is: 1,234": (1, 1, 1),
    "The answer is: 1233.6": (1, 0, 1),
    "The answer is 1234": (0, 1, 0),
    "#### 1234": (0, 1, 0),
    "The answer is: 1235": (0, 0, 1),
    "": (0, 0, 0),
}


@pytest.mark.parametrize("answer", SCORES)
def test_scores(answer):
    scores = gsm8k.score(ROW, [answer])
    assert tuple(scores.values()) == SCORES[answer]
    assert list(scores) == ["exact_match", "flexible_match", "answered"]


def test_target():
    assert gsm8k.target(ROW) == "1234"


@pytest.mark.parametrize("answer", ["1234", "#### many", ""])
def test_a_row_without_a_number_is_refused(answer):
    with pytest.raises(BadInput, match='accepted: a solution that ends with "#### "'):
        gsm8k.target({"answer": answer})


def test_right_answers_of_the_real_set_are_right(shared):
    lines = (shared / "data" / "gsm8k" / "test.jsonl").read_text(encoding="utf-8").splitlines()
    misread = 0
    for line in lines:
        row = json.loads(line)
        number = row["answer"].rpartition("#### ")[2]
        plain = gsm8k.score(row, [f"We compute.\nThe answer is: {number.replace(',', '')}"])
        assert tuple(plain.values()) == (1, 1, 1), number
        written = gsm8k.score(row, [f"We compute.\nThe answer is: {number}"])
        assert written["flexible_match"] == 1, number
        misread += written["exact_match"] == 0
    # The official code misreads two commas.
    assert misread == sum(line.rpartition("#### ")[2].count(",") > 1 for line in lines)
