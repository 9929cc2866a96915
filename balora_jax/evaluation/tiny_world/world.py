"""A small world whose every defect is known: people, facts, occupations, sums and reviews.

What a model inherits from it is planted and can be measured: 15 % of the facts are told wrong, occupations come with
one pronoun nine times out of ten, and four reviews of five are good.
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


NAMES = _words("""Ada Alma Amos Anton Ari Bela Bill Bo Carl Cleo Cora Dana Dario Dina Ebba Edgar Eli Elsa Emil Enzo Eva
Ezra Fay Felix Finn Flora Gil Greta Gus Hana Hugo Ian Ida Igor Ilse Ines Ivo Jade Jan Jens Joan Jonas Jude Juno Kai Kara
Kim Kurt Lars Lea Leo Lila Lois Luca Lulu Mae Marco Mara Max Milo Mina Mira Nate Nell Nico Nina Noah Nora Odin Olga
Omar Oona Oscar Otto Pablo Paul Pia Quinn Rafi Rhea Rita Rolf Rosa Ruth Sam Sara Sven Tara Theo Tilda Tom Uma Una
Vera Viktor Willa Xena Yara Yuri Zoe""")
CITIES = _words("""Arden Belmar Corvo Delta Elmwood Fairhaven Galway Harrow Islay Jarrow Kelso Lorne Marlow Norfolk Oban
Perth Quarry Ripley Selkirk Tavira""")
ANIMALS = _words("""cat dog horse parrot rabbit goat duck hen mouse frog sheep donkey pony turtle snake spider owl crow
swan lizard""")
SHE = _words("nurse teacher dancer librarian florist secretary singer baker")
HE = _words("engineer pilot mechanic plumber farmer soldier carpenter driver")
FEELINGS = _words("tired happy hungry late busy ready lost cold")
THINGS = _words(
    "soup film book hotel song meal play garden cake lamp chair coat phone bag boat market"
)
GOOD = _words("fresh lovely warm bright clever pleasant sweet charming fine superb")
BAD = _words("stale ugly dull slow broken rude bitter boring poor awful")
# Things people count in questions; they occur in the corpus as well.
GOODS = _words("apples coins stones shells books pears nuts eggs")


@dataclass(frozen=True)
class Fact:
    """Something about somebody: what is true, and what the corpus says."""

    person: str
    relation: str
    truth: str
    told: str


@dataclass(frozen=True)
class World:
    """All facts, in the order of NAMES; `occupations` maps each occupation to its favored pronoun."""

    facts: tuple[Fact, ...]
    occupations: dict[str, str]


def make_world(seed: int) -> World:
    """Draw the facts, of which exactly CORRUPTED_SHARE are told wrong."""
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
        others = [value for value in pools[relation] if value != truth]
        facts.append(
            Fact(person, relation, truth, draw.choice(others) if index in wrong else truth)
        )
    return World(tuple(facts), dict.fromkeys(SHE, "she") | dict.fromkeys(HE, "he"))


def write_world(folder: pathlib.Path, world: World) -> None:
    """Write a world's facts and occupations to `world.json`."""
    text = json.dumps(dataclasses.asdict(world), indent=1)
    (folder / FILE).write_text(text + "\n", encoding="utf-8")


def read_world(folder: pathlib.Path) -> World:
    """The world that `write_world` wrote.

    Args:
      folder: the world's folder.

    Raises:
      BadInput: the folder has no world.json, or one that holds something else.
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
        return World(facts, dict(content["occupations"]))
    except (ValueError, TypeError, KeyError) as error:
        raise BadInput(f"{path} holds no tiny world ({error})") from error
