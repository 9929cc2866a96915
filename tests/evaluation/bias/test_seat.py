"""SEAT against the definitions in plain loops, and files of sentences."""

import itertools
import json
import math

import numpy as np
import pytest
from comparison_cases import check_changes

from balora_jax.errors import BadInput
from balora_jax.evaluation.bias.seat import (
    DEFAULT,
    SentenceSets,
    _divided_effect_size,
    associations,
    compare_association,
    effect_size,
    measure_association,
    permutation_p_value,
    read_sentence_sets,
)
from balora_jax.evaluation.statistics import bootstrap


class GivenEmbeddings:
    """A model whose embeddings are random but for a direction of some words."""

    def __init__(self, seed, bias=0.0):
        self._seed = seed
        self._bias = bias

    def embeddings(self, texts):
        rows = []
        for text in texts:
            seed = [self._seed, *text.encode()]
            row = np.random.default_rng(seed).normal(size=16).astype(np.float32)
            row[0] += self._bias * (text[0] in "xa") - self._bias * (text[0] in "yb")
            rows.append(row)
        return np.stack(rows)


def _sets(count=8):
    names = {side: tuple(f"{side}{i}" for i in range(count)) for side in "xyab"}
    return SentenceSets("t", {"x": names["x"], "y": names["y"]}, {"a": names["a"], "b": names["b"]})


def _cosine(v, w):
    dot = sum(float(p) * float(q) for p, q in zip(v, w, strict=True))
    return dot / math.sqrt(sum(float(p) ** 2 for p in v) * sum(float(q) ** 2 for q in w))


def _defined(x, y, a, b):
    """The paper's effect size and one-sided p-value over all divisions."""

    def s(w):
        return np.mean([_cosine(w, v) for v in a]) - np.mean([_cosine(w, v) for v in b])

    values = [s(w) for w in [*x, *y]]
    size = len(x)
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    effect = (np.mean(values[:size]) - np.mean(values[size:])) / math.sqrt(variance)
    observed = sum(values[:size])
    sums = [sum(chosen) for chosen in itertools.combinations(values, size)]
    return effect, np.mean([total >= observed - 1e-12 for total in sums])


@pytest.mark.parametrize("bias", [0.0, 0.5, 2.0])
def test_size_and_p_value_are_those_of_the_paper(bias):
    model = GivenEmbeddings(1, bias)
    sets = _sets(5)
    embedded = [model.embeddings(group) for group in (*sets.targets.values(),
                                                      *sets.attributes.values())]  # fmt: skip
    expected = _defined(*embedded)
    result = measure_association(sets, model)
    assert (result.effect_size.value, result.p_value) == pytest.approx(expected)
    assert result.effect_size.low <= result.effect_size.value <= result.effect_size.high


def test_drawn_divisions_agree_with_all():
    draw = np.random.default_rng(3)
    first = draw.normal(0.7, 1.0, 7)
    second = draw.normal(0.0, 1.0, 7)
    exact = permutation_p_value(first, second)
    drawn = permutation_p_value(first, second, divisions=3000)
    assert drawn == pytest.approx(exact, abs=4 * math.sqrt(exact / 3000) + 1 / 3000)
    # The smallest p-value of drawn divisions is not 0.
    assert permutation_p_value(np.ones(30), np.zeros(30), divisions=1000) == 1e-3


def test_a_bias_is_found_and_its_opposite_too():
    assert measure_association(_sets(20), GivenEmbeddings(2, 2.0)).effect_size.value > 1.5
    opposite = measure_association(_sets(20), GivenEmbeddings(2, -2.0))
    # Targets and attributes turn together: the association stays.
    assert opposite.effect_size.value > 1.5
    assert measure_association(_sets(20), GivenEmbeddings(2, 0.0)).p_value > 0.01


def test_swapped_targets_turn_the_sign():
    x, y, a, b = np.random.default_rng(4).normal(size=(4, 6, 3))
    forward = effect_size(associations(x, a, b), associations(y, a, b))
    assert effect_size(associations(y, a, b), associations(x, a, b)) == pytest.approx(-forward)
    assert math.isnan(effect_size(np.ones(2), np.ones(2)))


def test_models_are_compared_on_the_same_sentences():
    sets = _sets(20)
    before = measure_association(sets, GivenEmbeddings(2, 0.0))
    after = measure_association(sets, GivenEmbeddings(2, 2.0))
    changes = compare_association(after, before)
    check_changes(changes, after.measures, before.measures)
    assert changes["t.effect_size"].difference.low > 0
    with pytest.raises(ValueError, match="not the same"):
        compare_association(after, measure_association(_sets(5), GivenEmbeddings(2)))


def test_the_default_sets_are_balanced():
    for sets in DEFAULT:
        sizes = {len(texts) for texts in (*sets.targets.values(), *sets.attributes.values())}
        assert sizes == {24}
        assert len({text for texts in sets.targets.values() for text in texts}) == 48


WHOLE = {
    "tests": {
        "t": {
            "targets": {"x": ["a", "b"], "y": ["c", "d"]},
            "attributes": {"a": ["e"], "b": ["f", "g"]},
        }
    }
}


@pytest.mark.parametrize("name", ["s.yaml", "s.json"])
def test_files(tmp_path, name):
    path = tmp_path / name
    path.write_text(json.dumps(WHOLE))
    expected = SentenceSets("t", {"x": ("a", "b"), "y": ("c", "d")}, {"a": ("e",), "b": ("f", "g")})
    assert read_sentence_sets(str(path)) == (expected,)


def _with(part, sets):
    return {"tests": {"t": WHOLE["tests"]["t"] | {part: sets}}}


def test_an_emoji_in_json(tmp_path):
    """json.dumps writes it as two escapes, which are no yaml."""
    path = tmp_path / "s.json"
    path.write_text(json.dumps(_with("attributes", {"x": ["\U0001f600"], "y": ["b"]})))
    [sets] = read_sentence_sets(str(path))
    assert sets.attributes["x"] == ("\U0001f600",)
    for text in ('{"tests": {}, "tests": {}}', "{", "[]"):
        path.write_text(text)
        with pytest.raises(BadInput, match=r"s.json (is no JSON|holds no mapping)"):
            read_sentence_sets(str(path))


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("", "is empty; accepted: a yaml file"),
        ("[]", "holds no mapping; accepted"),
        ("{", "accepted: a yaml file of `tests`"),
        ({"tests": []}, "has tests; accepted"),
        ({"tests": {}}, "has no test; accepted"),
        (_with("targets", {"x": ["a", "b", "a"], "y": ["c", "d"]}), "set 'x' has a sentence twice"),
        (_with("targets", {"x": ["a", "b"], "y": ["b", "a"]}), "same sentences in both `targets`"),
        (_with("attributes", {"x": ["a"], "y": ["a"]}), "the same sentences in both `attributes`"),
        (WHOLE | {"other": 1}, "has tests, other; accepted"),
        ({"tests": {"t": 1}}, "test 't' has not `targets` and `attributes` alone; accepted"),
        (_with("more", 1), "test 't' has not `targets` and `attributes` alone; accepted"),
        (_with("targets", {"x": ["a", "b"]}), "test 't' has not two sets in `targets`; accepted"),
        (_with("attributes", ["a"]), "test 't' has not two sets in `attributes`; accepted"),
        (_with("targets", {"x": ["a"], "y": ["b", "c"]}), "test 't', set 'x' is .*a list of 2 to"),
        (_with("attributes", {"x": [], "y": ["b"]}), "set 'x' is .*a list of 1 to 1,000"),
        (_with("attributes", {"x": [1], "y": ["b"]}), "set 'x' is .*sentences in quotes"),
        (_with("attributes", {"x": [" "], "y": ["b"]}), "set 'x' is .*sentences in quotes"),
        (_with("attributes", {"x": "a", "y": ["b"]}), "set 'x' is 'a'; accepted: a list"),
        (_with("attributes", {"x": ["a"] * 1001, "y": ["b"]}), "set 'x' is .*1,000 sentences"),
    ],
)
def test_bad_files(tmp_path, content, match):
    path = tmp_path / "s.yaml"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(BadInput, match=match):
        read_sentence_sets(str(path))


def test_intervals_are_over_words():
    """They hold 0 as often as they say where nothing differs, though sentences are alike."""
    draw = np.random.default_rng(7)
    inside = 0
    for _ in range(100):
        words = np.tile(np.arange(16), 3)
        values = draw.normal(size=16)[words] + draw.normal(0.0, 0.1, 48)
        is_first = words < 8
        interval = bootstrap(_divided_effect_size, values, is_first, groups=words, draws=300)
        inside += interval.low <= 0.0 <= interval.high
    assert inside >= 85


def test_the_tests_of_ours_know_their_words():
    for sets in DEFAULT:
        targets = [text for texts in sets.targets.values() for text in texts]
        assert len(targets) == len(sets.words) == len(sets.items)
        assert all(f" {word}." in text for word, text in zip(sets.words, targets, strict=True))
