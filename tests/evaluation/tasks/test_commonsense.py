"""Questions in LLM-Adapters' words, and the choices that answers name."""

import pytest

from balora_jax.data.prompts import make_template
from balora_jax.errors import BadInput
from balora_jax.evaluation.tasks import commonsense
from balora_jax.evaluation.tasks.prompts import alpaca

FOUR = {"text": ["a", "b", "c", "d"], "label": ["A", "B", "C", "D"]}
ARC_QUESTION = (
    "Please choose the correct answer to the question: Why?\n\n"
    "Answer1: a Answer2: b Answer3: c Answer4: d\n\n"
    "Answer format: answer1/answer2/answer3/answer4"
)
# A set -> a row as on the hub, its instruction, and its right answer.
ROWS = {
    "boolq": (
        {"question": "is it wet", "passage": "Water.", "answer": True},
        "Please answer the following question with true or false, question: is it wet?\n\n"
        "Answer format: true/false",
        "true",
    ),
    "piqa": (
        {"goal": "To sit,", "sol1": "use a chair.", "sol2": "use a pin.", "label": 0},
        "Please choose the correct solution to the question: To sit,\n\n"
        "Solution1: use a chair.\n\nSolution2: use a pin.\n\nAnswer format: solution1/solution2",
        "solution1",
    ),
    "siqa": (
        {
            "context": "Kim fell.",
            "question": "Why?",
            "answerA": "ice",
            "answerB": "joy",
            "answerC": "sun",
            "label": "3",
        },
        "Please choose the correct answer to the question: Kim fell. Why?\n\n"
        "Answer1: ice Answer2: joy Answer3: sun\n\nAnswer format: answer1/answer2/answer3",
        "answer3",
    ),
    "hellaswag": (
        {
            "activity_label": "Rowing",
            "ctx": "A man sits. he",
            "endings": ["rows.", "flies.", "melts.", "sings."],
            "label": "0",
        },
        "Please choose the correct ending to complete the given sentence: "
        "Rowing: A man sits. he\n\n"
        "Ending1: rows. Ending2: flies. Ending3: melts. Ending4: sings.\n\n"
        "Answer format: ending1/ending2/ending3/ending4",
        "ending1",
    ),
    "winogrande": (
        {
            "sentence": "Jo gave Al a pen as _ had two.",
            "option1": "Jo",
            "option2": "Al",
            "answer": "1",
        },
        "Please choose the correct answer to fill in the blank to complete the given sentence: "
        "Jo gave Al a pen as _ had two.\n\nOption1: Jo Option2: Al Answer format: option1/option2",
        "option1",
    ),
    "arc": ({"question": "Why?", "choices": FOUR, "answerKey": "D"}, ARC_QUESTION, "answer4"),
    "openbookqa": (
        {"question_stem": "Why?", "choices": FOUR, "answerKey": " B"},
        ARC_QUESTION,
        "answer2",
    ),
}
TARGETS = {"arc": "key", "openbookqa": "key"}


def _function(name, kind):
    return getattr(commonsense, f"{name}_{kind}")


class _Tokenizer:
    eos_token_id = 0


@pytest.mark.parametrize("instruction", ["Add 2 and 2.", "Braces {input} stay {}.", "a\n\nb"])
def test_the_prompt_is_that_of_training(instruction):
    template = make_template("alpaca", _Tokenizer())
    assert alpaca(instruction) == template.render({"instruction": instruction})


@pytest.mark.parametrize("name", ROWS)
def test_questions(name):
    doc, instruction, _ = ROWS[name]
    assert _function(name, "prompt")(doc) == alpaca(instruction)


@pytest.mark.parametrize("name", ROWS)
def test_scores(name):
    doc, _, right = ROWS[name]
    kind = TARGETS.get(name, name)
    score = _function(kind, "score")
    wrong = {"true": "false"}.get(right, right[:-1] + ("2" if right.endswith("1") else "1"))
    assert _function(kind, "target")(doc) == right
    assert score(doc, [f"the correct answer is {right}"]) == {"acc": 1, "answered": 1}
    # The first choice counts, and capital letters are other letters, as in the official code.
    assert score(doc, [f"{right}, not {wrong}"]) == {"acc": 1, "answered": 1}
    assert score(doc, [f"{wrong}, not {right}"]) == {"acc": 0, "answered": 1}
    assert score(doc, [right.capitalize()]) == {"acc": 0, "answered": 0}
    assert score(doc, [""]) == {"acc": 0, "answered": 0}


def test_three_and_five_choices():
    five = {"text": ["a", "b", "c", "d", "e"], "label": ["1", "2", "3", "4", "5"]}
    doc = {"question": "Why?", "choices": five, "answerKey": "5"}
    assert "Answer format: answer1/answer2/answer3/answer4/answer5\n" in commonsense.arc_prompt(doc)
    assert commonsense.key_score(doc, ["answer5"])["acc"] == 1


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("boolq", {"answer": "false"}),
        ("piqa", {"label": -1}),
        ("siqa", {"label": "0"}),
        ("hellaswag", {"label": ""}),
        ("winogrande", {"answer": ""}),
        ("arc", {"answerKey": "E"}),
    ],
)
def test_a_row_without_a_label_is_refused(name, changed):
    target = _function(TARGETS.get(name, name), "target")
    with pytest.raises(BadInput, match="accepted: "):
        target(ROWS[name][0] | changed)
