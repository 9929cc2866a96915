"""The tiny world: its share of wrong facts, and its dependence on the seed."""

import pytest

from balora_jax.evaluation.tiny_world.world import CORRUPTED_SHARE, NAMES, make_world


@pytest.fixture(scope="module")
def world():
    return make_world(0)


def test_exactly_the_planted_share_of_facts_is_wrong(world):
    assert len(world.facts) == 2 * len(NAMES)
    wrong = sum(fact.truth != fact.told for fact in world.facts)
    assert wrong == CORRUPTED_SHARE * len(world.facts)


def test_the_seed_decides_the_world():
    assert make_world(3) == make_world(3) != make_world(4)
