"""Notices of inactive terms: each is given for its reason, and none for a healthy configuration."""

import dataclasses

import pytest
from record_cases import RECORD
from term_cases import nlg_terms, nlu_terms

from balora_jax import models
from balora_jax.config import ConsistencyConfig, DiversityConfig, RegularizersConfig, SvdConfig
from balora_jax.config.parse import read_config
from balora_jax.reporting import inactive_terms
from balora_jax.runs.setup import build_setup
from balora_jax.training.sharding import make_mesh

NLG = {
    "steps": 100,
    "tokens": 2048,
    "hidden_size": 64,
    "vocabulary": 1500,
    "softcapped": False,
    "head_frozen": True,
}
NLU = {"steps": 100, "examples": 32, "classes": 6}
SIX_CLASSES = RegularizersConfig(svd=SvdConfig(k=5))


def language_model(config, **numbers):
    """The notices for a language model with this configuration."""
    return inactive_terms.language_model(config, nlg_terms(config), **numbers)


def classifier(config, **numbers):
    """The notices for a classifier with this configuration."""
    return inactive_terms.classifier(config, nlu_terms(config), **numbers)


def having(name, base=None, **changes):
    """The configuration `base` with `changes` in the section of the term `name`."""
    base = base or RegularizersConfig()
    return dataclasses.replace(base, **{name: dataclasses.replace(getattr(base, name), **changes)})


def test_healthy_configurations_give_no_notice():
    assert language_model(RegularizersConfig(), **NLG) == []
    assert classifier(SIX_CLASSES, **NLU) == []
    assert inactive_terms.unused("ba-lora", having("svd", k=3)) == []
    assert inactive_terms.unused("lora", RegularizersConfig()) == []


def test_a_term_that_was_next_to_nothing_is_named():
    weights = {"consistency": 0.1, "diversity": 0.5, "svd": 0.0}
    terms = {"consistency": 1.0, "diversity": 4e-5, "svd": 1e-9}
    record = dataclasses.replace(RECORD, task=2.0, terms=terms, weights=weights)
    (notice,) = inactive_terms.negligible([record, record])
    assert "diversity term, weighted, was at most about 1e-05 of the task's loss" in notice
    assert "a larger regularizers.diversity.weight, or more updates, let it act" in notice
    # A term that acted at one update did act.
    acting = dataclasses.replace(record, terms=terms | {"diversity": 1.0})
    assert inactive_terms.negligible([record, acting]) == []


def test_methods_without_regularizers():
    (notice,) = inactive_terms.unused("pissa", having("svd", k=3))
    assert "do not act under method pissa" in notice


@pytest.mark.parametrize(
    ("terms", "numbers", "words"),
    [
        (
            having("svd", k=10, norm="nuclear"),
            {"tokens": 10},
            "constant -1 and does nothing; a k below 10",
        ),
        (
            having("svd", k=64, norm="nuclear"),
            {},
            "at most 64 singular values (2048 tokens at most, hidden size 64)",
        ),
        (having("svd", k=64), {}, "evens them out"),
        (having("diversity", top_k=1500), {}, "top_k is 1500 and the vocabulary 1500"),
        (
            having("diversity", delay=1.0),
            {},
            "diversity.weight is 0.005 and stays 0 in all 100 steps",
        ),
        (having("svd", delay=0.995), {}, "a smaller regularizers.svd.delay 0.995"),
        (having("svd", schedule="linear"), {"steps": 1}, "a smaller regularizers.svd.warmup"),
        (having("consistency", weight=0.0), {}, "no teacher runs"),
        (having("diversity", weight=0.0), {}, "regularizers.diversity.weight is 0"),
        (RegularizersConfig(), {"softcapped": True}, "the SVD term alone"),
        (RegularizersConfig(), {"head_frozen": False}, "leave lm_head out"),
        (RegularizersConfig(), {"head_frozen": False, "softcapped": True}, "leave lm_head out"),
    ],
)
def test_language_models(terms, numbers, words):
    notices = language_model(terms, **(NLG | numbers))
    # In a run of one step every schedule that begins at 0 stays there, which gives more notices.
    if numbers.get("steps") == 1:
        notices = [notice for notice in notices if words in notice]
    assert len(notices) == 1 and words in notices[0]


@pytest.mark.parametrize(
    ("terms", "numbers", "words"),
    [
        (
            SIX_CLASSES,
            {"classes": 3},
            "at most 3 singular values (32 examples, 3 outputs): the SVD term is the constant -1",
        ),
        (SIX_CLASSES, {"examples": 5}, "a k below 5 makes it act"),
        (RegularizersConfig(svd=SvdConfig(weight=0.0)), {}, "regularizers.svd.weight is 0"),
        (having("svd", SIX_CLASSES, delay=1.0), {"classes": 2}, "stays 0"),
    ],
)
def test_classifiers(terms, numbers, words):
    (notice,) = classifier(terms, **(NLU | numbers))
    assert words in notice


def test_one_output_makes_every_term_constant():
    notices = " ".join(classifier(SIX_CLASSES, **(NLU | {"classes": 1})))
    assert notices.count("constant") == 3 and "svd.weight 0" in notices
    mse = dataclasses.replace(SIX_CLASSES, consistency=ConsistencyConfig(form="mse"))
    assert "form kl" not in " ".join(classifier(mse, **(NLU | {"classes": 1})))


def test_one_example_has_no_covariance():
    terms = RegularizersConfig(diversity=DiversityConfig(weight=1.0), svd=SvdConfig(weight=0.0))
    notices = classifier(terms, **(NLU | {"examples": 1}))
    assert any("one example in a batch" in notice for notice in notices)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (
            ["--regularizers.svd.k", "32"],
            "at most 32 singular values (128 tokens at most, hidden size 32)",
        ),
        (
            ["--method", "lora", "--adapter.init", "lora", "--regularizers.svd.k", "3"],
            "do not act under method lora",
        ),
        (["--regularizers.svd.k", "31"], None),
    ],
)
def test_notices_use_the_sizes_of_the_run(run_arguments, tiny_llama, tmp_path, more, words):
    model, _ = models.load_pretrained(tiny_llama)
    config = read_config(run_arguments(tmp_path, *more))
    setup = build_setup(config, model, make_mesh(config.mesh), steps=100)
    notices = inactive_terms.inactive_terms(config, setup, steps=100, counted=32)
    assert (notices == []) if words is None else words in notices[0]
