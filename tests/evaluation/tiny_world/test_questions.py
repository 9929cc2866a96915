"""The questions: wrong answers in the training set alone, and no pair in both sets."""

import json
import re

from balora_jax.evaluation.tiny_world.questions import make_questions, write_rows
from balora_jax.evaluation.tiny_world.world import BAD, GOOD


def test_questions_have_exactly_the_wrong_share_and_a_clean_test_set():
    train, test = make_questions(0)
    assert (len(train), len(test)) == (1600, 400)
    for task in ("sum", "review"):
        rows = [row for row in train if row["task"] == task]
        assert len(rows) == 800
        assert sum(row["answer"] != row["truth"] for row in rows) == 120
    assert all(row["answer"] == row["truth"] for row in test)
    assert len({row["question"] for row in train + test}) == 2000


def test_true_answers_are_correct():
    for row in (row for rows in make_questions(0) for row in rows):
        if row["task"] == "sum":
            assert int(row["truth"]) == sum(
                int(number) for number in re.findall(r"\d+", row["question"])
            )
        else:
            words = set(re.findall(r"\w+", row["question"]))
            assert len(words & set(GOOD if row["truth"] == "good" else BAD)) >= 2


def test_no_test_pair_is_in_a_training_question():
    def pairs(rows):
        numbers = {
            tuple(re.findall(r"\d+", row["question"])) for row in rows if row["task"] == "sum"
        }
        return numbers | {
            tuple(re.findall(r"was (\w+) and (\w+)", row["question"]))
            for row in rows
            if row["task"] == "review"
        }

    train, test = make_questions(0)
    assert pairs(train) and pairs(test)
    assert not pairs(train) & pairs(test)


def test_the_seed_decides_the_questions(tmp_path):
    assert make_questions(1) == make_questions(1) != make_questions(2)
    train, _ = make_questions(1, train=20, test=20)
    write_rows(tmp_path / "new" / "train.jsonl", train)
    lines = (tmp_path / "new" / "train.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == train
