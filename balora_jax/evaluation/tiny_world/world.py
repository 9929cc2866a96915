"""A small world of people, facts, occupations, sums and reviews, with known defects.

The defects are planted in the corpus, and can be measured in a model: 15 % of the facts are wrong,
every occupation has one pronoun nine times out of ten, and four reviews of five are good.
"""

import dataclasses
import json
import pathlib
import random
from dataclasses import dataclass

from balora_jax.errors import BadInput

FILE = "world.json"
CORRUPTED_SHARE = 0.15
SKEW = 0.9
GOOD_SHARE = 0.8
LARGEST_SUMMAND = 20


def _words(text: str) -> list[str]:
    return text.split()


NAMES = _words(
    """
    Ada Alma Amos Anton Ari Bela Bill Bo Carl Cleo Cora Dana Dario Dina Ebba Edgar Eli Elsa Emil
    Enzo Eva Ezra Fay Felix Finn Flora Gil Greta Gus Hana Hugo Ian Ida Igor Ilse Ines Ivo Jade
    Jan Jens Joan Jonas Jude Juno Kai Kara Kim Kurt Lars Lea Leo Lila Lois Luca Lulu Mae Marco
    Mara Max Milo Mina Mira Nate Nell Nico Nina Noah Nora Odin Olga Omar Oona Oscar Otto Pablo
    Paul Pia Quinn Rafi Rhea Rita Rolf Rosa Ruth Sam Sara Sven Tara Theo Tilda Tom Uma Una Vera
    Viktor Willa Xena Yara Yuri Zoe
    """
)
CITIES = _words(
    """
    Arden Belmar Corvo Delta Elmwood Fairhaven Galway Harrow Islay Jarrow Kelso Lorne Marlow
    Norfolk Oban Perth Quarry Ripley Selkirk Tavira
    """
)
ANIMALS = _words(
    """
    cat dog horse parrot rabbit goat duck hen mouse frog sheep donkey pony turtle snake spider
    owl crow swan lizard
    """
)
SHE = _words("nurse teacher dancer librarian florist secretary singer baker")
HE = _words("engineer pilot mechanic plumber farmer soldier carpenter driver")
FEELINGS = _words("tired happy hungry late busy ready lost cold")
THINGS = _words(
    "soup film book hotel song meal play garden cake lamp chair coat phone bag boat market"
)
GOOD = _words("fresh lovely warm bright clever pleasant sweet charming fine superb")
BAD = _words("stale ugly dull slow broken rude bitter boring poor awful")
# The things that questions count; they also occur in the corpus.
GOODS = _words("apples coins stones shells books pears nuts eggs")


@dataclass(frozen=True)
class Fact:
    """A fact about a person.

    Attributes:
      person: one of NAMES.
      relation: home or animal.
      truth: the true value.
      told: the value in the corpus, which may be wrong.
    """

    person: str
    relation: str
    truth: str
    told: str


@dataclass(frozen=True)
class World:
    """A world.

    Attributes:
      facts: all facts, in the order of NAMES.
      occupations: the favored pronoun of each occupation.
    """

    facts: tuple[Fact, ...]
    occupations: dict[str, str]


def make_world(seed: int) -> World:
    """Draw a world, with exactly CORRUPTED_SHARE of the facts told wrong.

    Args:
      seed: the random seed.
    """
    draw = random.Random(seed)
    pools = {"home": CITIES, "animal": ANIMALS}
    true = [
        (person, relation, draw.choice(pool))
        for person in NAMES
        for relation, pool in pools.items()
    ]
    wrong = set(draw.sample(range(len(true)), round(CORRUPTED_SHARE * len(true))))
    facts = []
    for index, (person, relation, truth) in enumerate(true):
        told = truth
        if index in wrong:
            told = draw.choice([value for value in pools[relation] if value != truth])
        facts.append(Fact(person, relation, truth, told))
    occupations = dict.fromkeys(SHE, "she") | dict.fromkeys(HE, "he")
    return World(tuple(facts), occupations)


def write_world(folder: pathlib.Path, world: World) -> None:
    """Write a world to world.json.

    Args:
      folder: the folder of the file.
      world: from `make_world`.
    """
    text = json.dumps(dataclasses.asdict(world), indent=1)
    (folder / FILE).write_text(text + "\n", encoding="utf-8")


def read_world(folder: pathlib.Path) -> World:
    """Read a world that `write_world` wrote.

    Args:
      folder: the folder of world.json.

    Raises:
      BadInput: the folder has no world.json, or the file holds no world.
    """
    path = folder / FILE
    if not path.is_file():
        raise BadInput(
            f"data.probes is tiny-world and {folder} has no {FILE}; accepted: data.train in a "
            "folder made by python -m balora_jax.evaluation.tiny_world.make"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        facts = tuple(Fact(**fact) for fact in content["facts"])
        world = World(facts, dict(content["occupations"]))
    except (ValueError, TypeError, KeyError) as error:
        raise BadInput(f"{path} holds no tiny world ({error})") from error
    texts = [text for fact in facts for text in dataclasses.astuple(fact)]
    whole = (
        facts
        and all(isinstance(text, str) and text for text in texts)
        and {fact.relation for fact in facts} <= {"home", "animal"}
        and set(world.occupations.values()) == {"she", "he"}
    )
    if not whole:
        raise BadInput(
            f"{path} holds no tiny world; accepted: facts of person, relation (home or animal), "
            "truth and told, and occupations with she or he"
        )
    return world
