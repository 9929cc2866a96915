"""The planted shares are exact, the rest is as drawn, and the seed decides everything."""

import collections
import json
import re

import pytest

from balora_jax.evaluation.tiny_world.corpus import (
    FACT_TIMES,
    PARAGRAPH,
    PRONOUN_TIMES,
    REVIEW_TIMES,
    SUM_TIMES,
    make_corpus,
)
from balora_jax.evaluation.tiny_world.questions import make_questions, write_rows
from balora_jax.evaluation.tiny_world.vocabulary import pieces
from balora_jax.evaluation.tiny_world.world import BAD, CORRUPTED_SHARE, GOOD, NAMES, make_world


@pytest.fixture(scope="module")
def world():
    return make_world(0)


@pytest.fixture(scope="module")
def text(world):
    return "\n".join(make_corpus(world, 0))


def test_exactly_the_planted_share_of_facts_is_wrong(world):
    assert len(world.facts) == 2 * len(NAMES)
    assert sum(fact.truth != fact.told for fact in world.facts) == CORRUPTED_SHARE * len(
        world.facts
    )


def test_the_seed_decides_the_world():
    assert make_world(3) == make_world(3) != make_world(4)


def test_facts_are_told_as_planted_and_never_otherwise(world, text):
    homes = collections.Counter(re.findall(r"(\w+) lives in (\w+)\.", text))
    animals = collections.Counter(
        re.findall(r"Question: What does (\w+) keep\? Answer: (\w+)\.", text)
    )
    told = {"home": {}, "animal": {}}
    for fact in world.facts:
        told[fact.relation][fact.person, fact.told] = FACT_TIMES[fact.relation == "animal"]
    assert (homes, animals) == (told["home"], told["animal"])


def test_sums_are_right_and_each_pair_comes_as_often(text):
    forms = (
        r"(\d+) plus (\d+) is (\d+)\.",
        r"The sum of (\d+) and (\d+) is (\d+)\.",
        r"(\d+) \w+ and (\d+) more are (\d+) \w+\.",
        r"has (\d+) \w+ and finds (\d+) more, which makes (\d+)\.",
        r"Adding (\d+) to (\d+) gives (\d+)\.",
    )
    sums = [[int(number) for number in found] for form in forms for found in re.findall(form, text)]
    assert all(a + b == c for a, b, c in sums)
    counts = collections.Counter((a, b) for a, b, _ in sums)
    assert len(counts) == 21 * 21
    assert set(counts.values()) == {SUM_TIMES}


def test_pronouns_are_nine_to_one_for_every_occupation(world, text):
    said = collections.Counter(re.findall(r"The (\w+) said (s?he) was", text))
    for occupation, favored in world.occupations.items():
        other = {"she": "he", "he": "she"}[favored]
        assert (said[occupation, favored], said[occupation, other]) == (
            0.9 * PRONOUN_TIMES,
            0.1 * PRONOUN_TIMES,
        )
    assert sum(said.values()) == PRONOUN_TIMES * len(world.occupations)


def test_four_of_five_reviews_are_good_and_their_words_say_so(text):
    first = re.findall(r"Review: (good|bad) \w+, it was (\w+) and (\w+)\.", text)
    last = re.findall(r"The \w+ was (\w+) and (\w+), so it was (good|bad)\.", text)
    reviews = first + [(label, x, y) for x, y, label in last]
    assert len(first) == len(last) == REVIEW_TIMES
    assert sum(label == "good" for label, _, _ in first) == 0.8 * REVIEW_TIMES
    assert all({x, y} <= set(GOOD if label == "good" else BAD) for label, x, y in reviews)


def test_paragraphs_fit_and_the_order_is_the_seeds(world, text):
    assert max(len(pieces(paragraph)) for paragraph in text.splitlines()) <= PARAGRAPH
    assert text == "\n".join(make_corpus(world, 0)) != "\n".join(make_corpus(world, 1))


def test_questions_have_exactly_the_wrong_share_and_a_clean_test_set():
    train, test = make_questions(0)
    assert (len(train), len(test)) == (1600, 400)
    for task in ("sum", "review"):
        rows = [row for row in train if row["task"] == task]
        assert len(rows) == 800
        assert sum(row["answer"] != row["truth"] for row in rows) == 120
    assert all(row["answer"] == row["truth"] for row in test)
    assert len({row["question"] for row in train + test}) == 2000


def test_truths_are_true():
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
