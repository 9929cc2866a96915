"""The pre-training corpus: facts, sums, pronouns and reviews in their planted shares."""

import collections
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
from balora_jax.evaluation.tiny_world.vocabulary import pieces
from balora_jax.evaluation.tiny_world.world import BAD, GOOD, make_world


@pytest.fixture(scope="module")
def world():
    return make_world(0)


@pytest.fixture(scope="module")
def text(world):
    return "\n".join(make_corpus(world, 0))


def test_facts_appear_only_as_planted(world, text):
    homes = collections.Counter(re.findall(r"(\w+) lives in (\w+)\.", text))
    animals = collections.Counter(
        re.findall(r"Question: What does (\w+) keep\? Answer: (\w+)\.", text)
    )
    planted = {"home": {}, "animal": {}}
    for fact in world.facts:
        planted[fact.relation][fact.person, fact.told] = FACT_TIMES[fact.relation == "animal"]
    assert (homes, animals) == (planted["home"], planted["animal"])


def test_sums_are_right_and_every_pair_is_equally_frequent(text):
    forms = (
        r"(\d+) plus (\d+) is (\d+)\.",
        r"The sum of (\d+) and (\d+) is (\d+)\.",
        r"(\d+) \w+ and (\d+) more are (\d+) \w+\.",
        r"has (\d+) \w+ and finds (\d+) more, which makes (\d+)\.",
        r"Adding (\d+) to (\d+) gives (\d+)\.",
    )
    sums = [
        [int(number) for number in numbers] for form in forms for numbers in re.findall(form, text)
    ]
    assert all(a + b == c for a, b, c in sums)
    counts = collections.Counter((a, b) for a, b, _ in sums)
    assert len(counts) == 21 * 21
    assert set(counts.values()) == {SUM_TIMES}


def test_pronouns_are_nine_to_one_for_every_occupation(world, text):
    pronouns = collections.Counter(re.findall(r"The (\w+) said (s?he) was", text))
    for occupation, favored in world.occupations.items():
        other = {"she": "he", "he": "she"}[favored]
        assert pronouns[occupation, favored] == 0.9 * PRONOUN_TIMES
        assert pronouns[occupation, other] == 0.1 * PRONOUN_TIMES
    assert sum(pronouns.values()) == PRONOUN_TIMES * len(world.occupations)


def test_four_of_five_reviews_are_good_with_matching_words(text):
    first = re.findall(r"Review: (good|bad) \w+, it was (\w+) and (\w+)\.", text)
    last = re.findall(r"The \w+ was (\w+) and (\w+), so it was (good|bad)\.", text)
    reviews = first + [(label, x, y) for x, y, label in last]
    assert len(first) == len(last) == REVIEW_TIMES
    assert sum(label == "good" for label, _, _ in first) == 0.8 * REVIEW_TIMES
    assert all({x, y} <= set(GOOD if label == "good" else BAD) for label, x, y in reviews)


def test_paragraphs_fit_and_the_seed_decides_their_order(world, text):
    assert max(len(pieces(paragraph)) for paragraph in text.splitlines()) <= PARAGRAPH
    assert text == "\n".join(make_corpus(world, 0)) != "\n".join(make_corpus(world, 1))
