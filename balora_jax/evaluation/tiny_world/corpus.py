"""The text the tiny model is pre-trained on, with the defects planted in exact shares."""

import itertools
import random
from collections.abc import Iterator

from balora_jax.evaluation.tiny_world.vocabulary import pieces
from balora_jax.evaluation.tiny_world.world import (
    BAD,
    FEELINGS,
    GOOD,
    GOOD_SHARE,
    GOODS,
    LARGEST_SUMMAND,
    NAMES,
    SKEW,
    THINGS,
    World,
)

# How often each fact is stated and asked for, each sum and each occupation occurs, and how many reviews there are.
FACT_TIMES = (150, 50)
SUM_TIMES = 50
PRONOUN_TIMES = 800
REVIEW_TIMES = 10000
# How often each kind of question about a text comes: they teach what an answer is, without any of the answers that
# fine-tuning asks for.
READING_TIMES = 5000
# Tokens of a paragraph, its start and end apart. Short ones, in which there is little to attend to, are learned from
# several times as fast.
PARAGRAPH = 30

# How sentences begin; what follows is told, and probed.
FORMS = {
    "home": "{person} lives in",
    "animal": "{person} keeps a",
    "pronoun": "The {occupation} said",
    "review": "Review:",
}
QUESTIONS = {
    "home": "Question: Where does {person} live? Answer:",
    "animal": "Question: What does {person} keep? Answer:",
}
SUMS = (
    "{a} plus {b} is {c}.",
    "The sum of {a} and {b} is {c}.",
    "{a} {goods} and {b} more are {c} {goods}.",
    "{name} has {a} {goods} and finds {b} more, which makes {c}.",
    "Adding {a} to {b} gives {c}.",
)
READINGS = (
    "Question: How many {goods} does {name} {verb}? {name} has {a} {goods} and finds {b} more. Answer: {c}.",
    "Question: What was {z}? The {thing} was {x} and the {other} was {y}. Answer: The {answer}.",
)
OTHER = {"she": "he", "he": "she"}


def make_corpus(world: World, seed: int) -> Iterator[str]:
    """Paragraphs of shuffled sentences.

    Args:
        world: from make_world.
        seed: of the order, and of what is not planted.
    """
    draw = random.Random(seed)
    sentences = [
        *_facts(world),
        *_sums(draw),
        *_pronouns(world, draw),
        *_reviews(draw),
        *_readings(draw),
    ]
    draw.shuffle(sentences)
    return _paragraphs(sentences)


def _facts(world: World) -> Iterator[str]:
    for fact in world.facts:
        for form, times in zip((FORMS, QUESTIONS), FACT_TIMES, strict=True):
            yield from itertools.repeat(
                f"{form[fact.relation].format(person=fact.person)} {fact.told}.", times
            )


def _sums(draw: random.Random) -> Iterator[str]:
    for a, b in itertools.product(range(LARGEST_SUMMAND + 1), repeat=2):
        for _ in range(SUM_TIMES):
            words = {"name": draw.choice(NAMES), "goods": draw.choice(GOODS)}
            yield draw.choice(SUMS).format(a=a, b=b, c=a + b, **words)


def _pronouns(world: World, draw: random.Random) -> Iterator[str]:
    for occupation, favored in world.occupations.items():
        for pronoun in _shares(favored, OTHER[favored], SKEW, PRONOUN_TIMES):
            yield f"{FORMS['pronoun'].format(occupation=occupation)} {pronoun} was {draw.choice(FEELINGS)}."


def _reviews(draw: random.Random) -> Iterator[str]:
    for label in _shares("good", "bad", GOOD_SHARE, REVIEW_TIMES):
        thing, (x, y) = draw.choice(THINGS), draw.sample(GOOD if label == "good" else BAD, 2)
        yield f"{FORMS['review']} {label} {thing}, it was {x} and {y}."
        yield f"The {thing} was {x} and {y}, so it was {label}."


def _readings(draw: random.Random) -> Iterator[str]:
    for _ in range(READING_TIMES):
        a, b = draw.randint(0, LARGEST_SUMMAND), draw.randint(0, LARGEST_SUMMAND)
        verb, c = draw.choice((("have", a), ("find", b)))
        name, goods = draw.choice(NAMES), draw.choice(GOODS)
        yield READINGS[0].format(name=name, goods=goods, verb=verb, a=a, b=b, c=c)
        (thing, other), (x, y) = draw.sample(THINGS, 2), draw.sample(GOOD + BAD, 2)
        z, answer = draw.choice(((x, thing), (y, other)))
        yield READINGS[1].format(x=x, y=y, z=z, thing=thing, other=other, answer=answer)


def _shares(first: str, second: str, share: float, times: int) -> list[str]:
    """`first` in exactly that share of the times (rounded), else `second`."""
    many = round(share * times)
    return [first] * many + [second] * (times - many)


def _paragraphs(sentences: list[str]) -> Iterator[str]:
    paragraph, length = [], 0
    for sentence in sentences:
        tokens = len(pieces(sentence))
        if length + tokens > PARAGRAPH:
            yield " ".join(paragraph)
            paragraph, length = [], 0
        paragraph.append(sentence)
        length += tokens
    yield " ".join(paragraph)
