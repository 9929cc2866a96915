"""The pre-training corpus of the tiny model, with the defects planted in exact shares."""

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

# How often each fact is stated and asked for, how often each sum and each occupation occurs, and
# the number of reviews.
FACT_TIMES = (150, 50)
SUM_TIMES = 50
PRONOUN_TIMES = 800
REVIEW_TIMES = 10000
# How often each kind of question about a text occurs. They teach the form of an answer, but none of
# the answers of fine-tuning.
READING_TIMES = 5000
# The most tokens of a paragraph, without its start and end. The model learns several times as fast
# from short paragraphs, in which there is little to attend to.
PARAGRAPH = 30

# The beginnings of sentences; the corpus continues them, and the probes ask for the continuation.
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
    "Question: How many {goods} does {name} {verb}? "
    "{name} has {a} {goods} and finds {b} more. Answer: {c}.",
    "Question: What was {z}? The {thing} was {x} and the {other} was {y}. Answer: The {answer}.",
)
OTHER = {"she": "he", "he": "she"}


def make_corpus(world: World, seed: int) -> Iterator[str]:
    """Generate paragraphs of shuffled sentences.

    Args:
      world: from `make_world`.
      seed: the random seed of the order, and of everything that is not planted.

    Returns:
      The paragraphs, of at most PARAGRAPH tokens each.
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
            beginning = form[fact.relation].format(person=fact.person)
            yield from itertools.repeat(f"{beginning} {fact.told}.", times)


def _sums(draw: random.Random) -> Iterator[str]:
    for a, b in itertools.product(range(LARGEST_SUMMAND + 1), repeat=2):
        for _ in range(SUM_TIMES):
            words = {"name": draw.choice(NAMES), "goods": draw.choice(GOODS)}
            yield draw.choice(SUMS).format(a=a, b=b, c=a + b, **words)


def _pronouns(world: World, draw: random.Random) -> Iterator[str]:
    for occupation, favored in world.occupations.items():
        for pronoun in _shares(favored, OTHER[favored], SKEW, PRONOUN_TIMES):
            beginning = FORMS["pronoun"].format(occupation=occupation)
            yield f"{beginning} {pronoun} was {draw.choice(FEELINGS)}."


def _reviews(draw: random.Random) -> Iterator[str]:
    for label in _shares("good", "bad", GOOD_SHARE, REVIEW_TIMES):
        adjectives = GOOD if label == "good" else BAD
        thing = draw.choice(THINGS)
        x, y = draw.sample(adjectives, 2)
        yield f"{FORMS['review']} {label} {thing}, it was {x} and {y}."
        yield f"The {thing} was {x} and {y}, so it was {label}."


def _readings(draw: random.Random) -> Iterator[str]:
    for _ in range(READING_TIMES):
        a = draw.randint(0, LARGEST_SUMMAND)
        b = draw.randint(0, LARGEST_SUMMAND)
        verb, c = draw.choice((("have", a), ("find", b)))
        name = draw.choice(NAMES)
        goods = draw.choice(GOODS)
        yield READINGS[0].format(name=name, goods=goods, verb=verb, a=a, b=b, c=c)

        thing, other = draw.sample(THINGS, 2)
        x, y = draw.sample(GOOD + BAD, 2)
        z, answer = draw.choice(((x, thing), (y, other)))
        yield READINGS[1].format(x=x, y=y, z=z, thing=thing, other=other, answer=answer)


def _shares(first: str, second: str, share: float, times: int) -> list[str]:
    """A list of `times` words: `first` in the given share of them (rounded), then `second`."""
    first_times = round(share * times)
    return [first] * first_times + [second] * (times - first_times)


def _paragraphs(sentences: list[str]) -> Iterator[str]:
    """Join sentences into paragraphs of at most PARAGRAPH tokens."""
    paragraph = []
    length = 0
    for sentence in sentences:
        tokens = len(pieces(sentence))
        if length + tokens > PARAGRAPH:
            yield " ".join(paragraph)
            paragraph = []
            length = 0
        paragraph.append(sentence)
        length += tokens
    yield " ".join(paragraph)
