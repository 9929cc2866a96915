"""Separation of classes: silhouettes by their definition, and states at the ends of prompts."""

import numpy as np
import pytest

from balora_jax import data
from balora_jax.evaluation.inheritance.separation import (
    answer_states,
    frequent_answers,
    measure_separation,
)
from balora_jax.evaluation.language_model import LanguageModel
from balora_jax.models import load_pretrained


def _groups(distance, seed=0):
    """Three groups of 12 points in 8 dimensions, with standard deviation 1."""
    rng = np.random.default_rng(seed)
    centers = distance * np.eye(3, 8)
    labels = np.repeat(np.arange(3), 12)
    return centers[labels] + rng.normal(size=(36, 8)), labels.tolist()


def _silhouette(states, labels):
    """(b - a) / max(a, b) of each point, in loops."""
    values = []
    for i, own in enumerate(labels):
        distances = [np.sqrt(((states[i] - other) ** 2).sum()) for other in states]
        means = {
            group: np.mean([d for j, d in enumerate(distances) if labels[j] == group and j != i])
            for group in set(labels)
        }
        inside = means.pop(own)
        nearest = min(means.values())
        values.append((nearest - inside) / max(nearest, inside))
    return np.mean(values)


@pytest.mark.parametrize("distance", [0, 3, 20])
def test_the_silhouette_is_that_of_the_definition(distance):
    states, labels = _groups(distance)
    found = measure_separation(states, labels, ("a", "b", "c"))
    assert found.silhouette.value == pytest.approx(_silhouette(states, labels), abs=1e-9)
    assert found.silhouette.low <= found.silhouette.value <= found.silhouette.high
    assert found.labels == tuple(labels)


def test_groups_apart_are_apart_in_the_picture():
    states, labels = _groups(20)
    points = np.array(measure_separation(states, labels, ("a", "b", "c")).points)
    assert points.shape == (36, 2) and np.isfinite(points).all()
    labels = np.array(labels)
    nearest = np.argsort(((points[:, None] - points[None]) ** 2).sum(-1), axis=1)[:, 1]
    assert (labels[nearest] == labels).all()


def test_few_points_have_a_picture():
    found = measure_separation(np.eye(4), [0, 0, 1, 1], ("a", "b"))
    assert np.isfinite(found.points).all()


def test_frequent_answers_are_the_classes():
    answers = ["good"] * 30 + ["bad"] * 12 + ["rare"] * 9
    assert frequent_answers(answers) == ("good", "bad")
    assert frequent_answers(["good"] * 30 + ["rare"] * 9) == ()
    assert frequent_answers([]) == ()
    many = [str(number) for number in range(15) for _ in range(10)]
    assert len(frequent_answers(many)) == 10


def test_states_are_those_of_the_last_token(tiny_llama):
    module, params = load_pretrained(tiny_llama)
    model = LanguageModel("base", module, params, None, data.load_tokenizer(tiny_llama))
    prompts = [[5, 6, 7], [8], [3 + number % 40 for number in range(200)], [9, 10]]
    states = answer_states(model, prompts)
    for state, prompt in zip(states, prompts, strict=True):
        ids = np.array([prompt[-model.max_length :]])
        hidden = module.apply({"params": params}, ids, method="hidden_states")
        np.testing.assert_allclose(state, hidden[0, -1], atol=1e-4)
