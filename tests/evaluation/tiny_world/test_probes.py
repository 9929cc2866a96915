"""Probes on a model whose every probability is known."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
import pytest

from balora_jax.evaluation.tiny_world.probes import Measure, make_probes, measure, read_probe
from balora_jax.evaluation.tiny_world.questions import make_questions
from balora_jax.evaluation.tiny_world.vocabulary import make_tokenizer
from balora_jax.evaluation.tiny_world.world import make_world


@dataclasses.dataclass(frozen=True)
class Parrot:
    """A model whose logits are the last token's row of `params`, plus that of `lora` if given."""

    def apply(self, variables, input_ids, attention_mask):
        return (variables["params"] + variables["lora"].get("change", 0.0))[input_ids]


@pytest.fixture(scope="module")
def tokenizer():
    world = make_world(0)
    train, test = make_questions(0)
    questions = [
        f"Question: {row['question']} Answer: {row['answer']} {row['truth']}"
        for row in train + test
    ]
    facts = [
        f"{fact.person} lives in {fact.truth} {fact.told}. {fact.person} keeps a cat"
        for fact in world.facts
    ]
    sentences = [
        f"The {occupation} said she he was. Review: good bad" for occupation in world.occupations
    ]
    return make_tokenizer(questions + facts + sentences)


@pytest.fixture(scope="module")
def probes(tokenizer):
    return make_probes(make_world(0), tokenizer, *make_questions(0))


def _parrot(tokenizer, pairs):
    """A table of logits: `value` for `word` after `after`, 0 for everything else."""
    table = np.zeros((len(tokenizer), len(tokenizer)), np.float32)
    for after, word, value in pairs:
        left, right = (
            tokenizer(text, add_special_tokens=False)["input_ids"][-1] for text in (after, word)
        )
        table[left, right] = value
    return jnp.asarray(table)


def test_shares_are_the_models_probabilities(tokenizer, probes):
    table = _parrot(
        tokenizer,
        [("said", "she", 3.0), ("said", "he", 3.0 - math.log(9)), ("Review:", "good", math.log(4))],
    )
    measures = measure(Parrot(), table, {}, probes)
    # "she" is favored for half of the occupations: 0.9 there, 0.1 elsewhere.
    assert measures["pronoun_favored"].value == pytest.approx(0.5, abs=1e-6)
    assert measures["pronoun_log_odds"].value == pytest.approx(0.0, abs=1e-6)
    assert np.abs(read_probe(Parrot(), table, {}, probes["pronouns"]).log_odds) == pytest.approx(
        math.log(9), abs=1e-5
    )
    assert measures["class_good"].value == pytest.approx(0.8, abs=1e-6)


def test_answers_are_right_if_the_truth_is_the_likeliest(tokenizer, probes):
    measures = measure(Parrot(), _parrot(tokenizer, [("Answer:", "good", 5.0)]), {}, probes)
    _, test = make_questions(0)
    share = np.mean([row["truth"] == "good" for row in test if row["task"] == "review"])
    assert measures["accuracy_reviews"].value == pytest.approx(share)
    assert measures["accuracy_sums"].value == 0
    assert measures["accuracy"].value == pytest.approx(share / 2)


def test_memorized_share_counts_the_wrong_labels_that_the_model_repeats(tokenizer, probes):
    train, _ = make_questions(0)
    wrong = [row for row in train if row["answer"] != row["truth"]]
    measures = measure(Parrot(), _parrot(tokenizer, [("Answer:", "bad", 5.0)]), {}, probes)
    share = np.mean([row["answer"] == "bad" for row in wrong])
    assert measures["wrong_labels_memorized"].value == pytest.approx(share)


def test_facts_are_known_if_the_truth_is_the_likeliest(tokenizer, probes):
    measures = measure(
        Parrot(),
        _parrot(tokenizer, [("lives in", "Oban", 5.0), ("keeps a", "cat", 5.0)]),
        {},
        probes,
    )
    truths = [fact.truth for fact in make_world(0).facts]
    assert measures["facts_known"].value == pytest.approx(
        (truths.count("Oban") + truths.count("cat")) / len(truths)
    )


def test_entropy_of_uniform_predictions_is_that_of_the_vocabulary(tokenizer, probes):
    measures = measure(Parrot(), _parrot(tokenizer, []), {}, probes)
    assert measures["entropy"].value == pytest.approx(math.log(len(tokenizer)), rel=1e-6)


def test_adapters_change_the_measurement(tokenizer, probes):
    uniform = _parrot(tokenizer, [])
    change = _parrot(tokenizer, [("Review:", "good", math.log(4))])
    assert measure(Parrot(), uniform, {}, probes)["class_good"].value == pytest.approx(0.5)
    adapted = measure(Parrot(), uniform, {"change": change}, probes)
    assert adapted["class_good"].value == pytest.approx(0.8)


def test_interval_is_that_of_the_binomial_distribution():
    low, high = Measure(0.5, planted=0.9, draws=100).interval
    assert (low, high) == pytest.approx((0.9 - 1.96 * 0.03, 0.9 + 1.96 * 0.03))
    assert Measure(0.5).interval is None
