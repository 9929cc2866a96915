"""Scores of answers to rows of MATH."""

import json

import pytest

from balora_jax.errors import BadInput
from balora_jax.evaluation.tasks import competition_math

ROW = {"problem": "Halve one.", "solution": "It is $\\boxed{\\frac{1}{2}}$."}
# An answer -> exact_match, math_verify, answered.
SCORES = {
    "The answer is: \\frac{1}{2}": (1, 1, 1),
    "The answer is: 1/2.": (1, 1, 1),
    "The answer is: 0.50": (0, 1, 1),
    "The answer is: $\\frac{1}{2}$": (0, 1, 1),
    "So $\\boxed{\\dfrac{1}{2}}$.": (0, 1, 0),
    "The answer is: 2": (0, 0, 1),
    "": (0, 0, 0),
}


@pytest.fixture(autouse=True)
def math_verify():
    pytest.importorskip("math_verify", reason="needs math-verify")


@pytest.mark.parametrize("answer", SCORES)
def test_scores(answer):
    scores = competition_math.score(ROW, [answer])
    assert tuple(scores.values()) == SCORES[answer]
    assert list(scores) == ["exact_match", "math_verify", "answered"]


@pytest.mark.parametrize(
    "row",
    [
        {"problem": "p", "solution": "It is $\\boxed{5}$.", "answer": "5"},
        {"problem": "p", "solution": "It is $\\boxed{5}$."},
        {"question": "p", "answer": "It is $\\boxed{5}$.The answer is: 5"},
    ],
)
def test_fields_of_the_sets_there_are(row):
    assert competition_math.reference(row) == "5"
    assert competition_math.prompt(row).endswith("### Instruction:\np\n\n### Response:")


def test_a_solution_without_a_box_is_refused():
    with pytest.raises(BadInput, match="accepted: a solution with its answer in"):
        competition_math.reference({"problem": "p", "solution": "It is 5."})


def test_right_answers_of_the_real_set_are_right(shared):
    lines = (shared / "data" / "math500" / "test.jsonl").read_text(encoding="utf-8").splitlines()
    for line in lines:
        row = json.loads(line)
        answer = f"We compute.\nThe answer is: {competition_math.reference(row)}"
        assert tuple(competition_math.score(row, [answer]).values()) == (1, 1, 1), answer
