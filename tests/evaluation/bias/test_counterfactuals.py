"""Gaps between twins: against the definitions, and the defects planted in the tiny world."""

import itertools
import math

import numpy as np
import pytest
from comparison_cases import check_changes
from language_model_cases import GivenModel
from scipy.special import rel_entr

from balora_jax.data import load_tokenizer
from balora_jax.evaluation.bias.counterfactuals import (
    compare_class_gaps,
    compare_gaps,
    divergence,
    measure_class_gaps,
    measure_gaps,
)
from balora_jax.evaluation.bias.templates import read_templates
from balora_jax.evaluation.language_model import LanguageModel
from balora_jax.evaluation.tiny_world import make_probes, make_questions, make_world, measure
from balora_jax.evaluation.tiny_world.corpus import FORMS, OTHER, make_corpus
from balora_jax.evaluation.tiny_world.embedded import ASSETS
from balora_jax.evaluation.tiny_world.world import ANIMALS, CITIES
from balora_jax.models import load_pretrained

OCCUPATIONS = "The {job: nurse|pilot|clerk} said that {pronoun: she|he} came."


def _templates(tmp_path, *lines):
    path = tmp_path / "templates.txt"
    path.write_text("\n".join(lines) + "\n")
    return read_templates(str(path))


def _stereotyped(text):
    """3 : 1 for she after nurse, 1 : 4 after pilot, 1 : 1 after clerk."""
    she = {"nurse": 0.75, "pilot": 0.2, "clerk": 0.5}[text.split()[1]]
    return math.log(she if " she " in text else 1 - she)


def _next(text):
    return (0.6, 0.3, 0.1) if " she " in text else (0.1, 0.3, 0.6)


def test_log_odds_are_those_of_the_sentences(tmp_path):
    gaps = measure_gaps(GivenModel(_stereotyped, _next), _templates(tmp_path, OCCUPATIONS))
    assert list(gaps) == ["job", "pronoun"]
    pronoun = gaps["pronoun"]
    np.testing.assert_allclose(pronoun.item_first, [0.75, 0.2, 0.5])
    np.testing.assert_allclose(pronoun.item_log_odds, np.log([3, 1 / 4, 1]), atol=1e-12)
    assert pronoun.item_likeliest.tolist() == [True, False, False]
    assert pronoun.magnitude.value == pytest.approx((math.log(3) + math.log(4)) / 3)
    # Of three alternatives, the first against the two others together.
    expected = [math.log(0.75 / (0.2 + 0.5)), math.log(0.25 / (0.8 + 0.5))]
    np.testing.assert_allclose(gaps["job"].item_log_odds, expected)


def test_next_tokens_are_compared_between_twins(tmp_path):
    gaps = measure_gaps(GivenModel(_stereotyped, _next), _templates(tmp_path, OCCUPATIONS))
    she = np.array([0.6, 0.3, 0.1])
    he = np.array([0.1, 0.3, 0.6])
    expected = (rel_entr(she, he).sum() + rel_entr(he, she).sum()) / 2
    assert gaps["pronoun"].divergence.value == pytest.approx(expected, rel=1e-6)
    assert gaps["pronoun"].flips.value == 1.0
    assert gaps["job"].divergence.value == 0.0
    assert gaps["job"].flips.value == 0.0


def test_divergence_with_impossible_tokens():
    p = np.log(np.array([0.5, 0.5, 0.0]), where=[True, True, False], out=np.full(3, -np.inf))
    q = np.log(np.array([0.25, 0.75, 0.0]), where=[True, True, False], out=np.full(3, -np.inf))
    assert divergence(p, q) == pytest.approx(0.25 * math.log(3) / 2)
    assert divergence(p, np.log(np.array([0.4, 0.4, 0.2]))) == np.inf
    assert divergence(p, p) == 0.0


def test_many_twins_are_read_in_blocks(tmp_path):
    lines = [f"{{a{line}|b{line}|c{line}}} number {line}" for line in range(100)]
    asked = []

    def next_probs(text):
        asked.append(text)
        share = (1 + len(asked) % 7) / 10
        return share, 1 - share

    gaps = measure_gaps(GivenModel(lambda text: -1.0, next_probs), _templates(tmp_path, *lines))
    assert len(gaps) == 100
    assert asked == [f"{letter}{line} number {line}" for line in range(100) for letter in "abc"]
    assert sum(len(slot.twins) for slot in gaps.values()) == 100


def test_models_are_compared_twin_by_twin(tmp_path):
    lines = [OCCUPATIONS, OCCUPATIONS.replace("came", "left")]
    templates = _templates(tmp_path, *lines)
    before = measure_gaps(GivenModel(_stereotyped, _next), templates)
    after = measure_gaps(GivenModel(lambda text: -1.0, lambda text: (0.5, 0.3, 0.2)), templates)
    changes = compare_gaps(after, before)
    for slot in ("job", "pronoun"):
        check_changes(changes, after[slot].measures, before[slot].measures)
        assert set(after[slot].measures) <= set(changes)
    assert changes["pronoun.first"].difference.value == pytest.approx(0.5 - 1.45 / 3)
    assert changes["pronoun.magnitude"].difference.high < 0
    assert changes["pronoun.flips"].difference.value == -1.0
    # Six flips are lost, and none is won.
    assert changes["pronoun.flips"].p_value == pytest.approx(2 / 2**6)
    assert changes["job.flips"].p_value is None
    assert changes["pronoun.likeliest"].p_value == 0.5
    with pytest.raises(ValueError, match="not the same"):
        compare_gaps(after, measure_gaps(GivenModel(_stereotyped), templates[:1]))


def test_classes_are_compared_between_twins(tmp_path):
    def class_log_probs(texts):
        good = np.array([0.9 if "he " in text and "she" not in text else 0.3 for text in texts])
        return np.log(np.stack([1 - good, good], axis=1))

    templates = _templates(tmp_path, "{who: he|she|they} came home {when: late|early}.")
    gaps = measure_class_gaps(class_log_probs, templates)
    who = gaps["who"]
    assert [interval.value for interval in who.differences] == pytest.approx([-0.6, 0.6])
    assert who.distance.value == pytest.approx(0.6)
    assert who.flips.value == 1.0
    expected = (rel_entr([0.1, 0.9], [0.7, 0.3]).sum() + rel_entr([0.7, 0.3], [0.1, 0.9]).sum()) / 2
    assert who.divergence.value == pytest.approx(expected)
    assert (gaps["when"].distance.value, gaps["when"].flips.value) == (0.0, 0.0)
    fair = measure_class_gaps(lambda texts: np.log(np.full((len(texts), 2), 0.5)), templates)
    changes = compare_class_gaps(fair, gaps)
    for slot in ("who", "when"):
        check_changes(changes, fair[slot].measures, gaps[slot].measures)
        assert set(fair[slot].measures) <= set(changes)
    assert changes["who.distance"].difference.value == pytest.approx(-0.6)
    assert changes["when.distance"].difference.value == 0.0


@pytest.fixture(scope="module")
def tiny_world():
    """The tiny model, its world, and contexts and measures as its own probes have them."""
    folder = ASSETS / "model"
    model, params = load_pretrained(folder)
    tokenizer = load_tokenizer(str(folder))
    world = make_world(0)
    probes = make_probes(world, tokenizer, *make_questions(0))
    texts = itertools.islice(make_corpus(world, seed=-1), 256)
    contexts = [text.split(". ")[0] + ". " for text in texts]
    measured = measure(model, params, {}, probes)
    return LanguageModel("base", model, params, None, tokenizer), world, contexts, measured


def test_the_planted_pronouns(tmp_path, tiny_world):
    model, world, contexts, measured = tiny_world
    occupations = itertools.cycle(world.occupations.items())
    lines = []
    for context, (occupation, favored) in zip(contexts, occupations, strict=False):
        form = FORMS["pronoun"].format(occupation=occupation)
        lines.append(f"{context}{form} {{pronoun: {favored}|{OTHER[favored]}}}")
    gaps = measure_gaps(model, _templates(tmp_path, *lines))["pronoun"]
    planted = measured["pronoun_favored"]
    assert gaps.first.value == pytest.approx(float(planted.value), abs=1e-4)
    assert planted.interval[0] <= gaps.first.value <= planted.interval[1]
    assert gaps.log_odds.value == pytest.approx(float(measured["pronoun_log_odds"].value), abs=1e-3)
    assert gaps.likeliest.value > 0.95


def test_the_planted_classes(tmp_path, tiny_world):
    model, _, contexts, measured = tiny_world
    lines = [f"{context}{FORMS['review']} {{label: good|bad}}" for context in contexts]
    gaps = measure_gaps(model, _templates(tmp_path, *lines))["label"]
    planted = measured["class_good"]
    assert gaps.first.value == pytest.approx(float(planted.value), abs=1e-4)
    assert planted.interval[0] <= gaps.first.value <= planted.interval[1]


def test_the_planted_facts(tmp_path, tiny_world):
    model, world, _, measured = tiny_world
    lines = []
    for fact in world.facts:
        pool = CITIES if fact.relation == "home" else ANIMALS
        others = [value for value in pool if value != fact.truth]
        form = FORMS[fact.relation].format(person=fact.person)
        lines.append(f"{form} {{{fact.relation}: {'|'.join([fact.truth, *others])}}}")
    gaps = measure_gaps(model, _templates(tmp_path, *lines))
    likeliest = np.concatenate([slot.item_likeliest for slot in gaps.values()])
    assert len(likeliest) == len(world.facts)
    assert likeliest.mean() == pytest.approx(float(measured["facts_known"].value), abs=0.011)
    low, high = measured["facts_known"].interval
    assert low <= likeliest.mean() <= high


def test_intervals_are_over_templates(tmp_path):
    names = "name = Ada|Bob|Cora|Dan|Eve|Finn"
    lines = [f"{{name}} {verb} home {{when: late|early}}." for verb in ("came", "went")]
    # The log-odds of one template are 2 above those of the other.
    model = GivenModel(
        lambda text: (len(text.split()[0]) / 10 + 2 * ("went" in text)) * ("late" in text)
    )
    one = measure_gaps(model, _templates(tmp_path, names, lines[0]))["when"]
    # Of one template nothing is known about others.
    assert math.isnan(one.log_odds.low) and math.isnan(one.log_odds.high)
    both = measure_gaps(model, _templates(tmp_path, names, *lines))["when"]
    assert both.log_odds.value == pytest.approx(one.log_odds.value + 1)
    assert both.log_odds.low == pytest.approx(one.log_odds.value)
    assert both.log_odds.high == pytest.approx(one.log_odds.value + 2)
