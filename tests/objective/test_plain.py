"""The objective from whole logits, against float64."""

import math

import chex
import float64_reference as reference
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from term_cases import PAPER, WEIGHTS, nlg_terms, nlu_terms, only

from balora_jax.config import ConsistencyConfig, DiversityConfig, RegularizersConfig, SvdConfig
from balora_jax.objective import plain
from balora_jax.objective.classification import task_loss

NONE = only()


def nlg(logits, teacher_logits, targets, mask, *, terms, weights):
    """A language model's plain objective, from the configuration's terms."""
    return plain.objective(
        logits, teacher_logits, targets, mask, terms=nlg_terms(terms), weights=weights
    )


def nlu(logits, teacher_logits, labels, *, terms, weights, regression):
    """A classifier's plain objective, from the configuration's terms."""
    return plain.objective(
        logits,
        teacher_logits,
        labels,
        np.ones(len(labels), bool),
        terms=nlu_terms(terms),
        weights=weights,
        task_loss=task_loss(regression),
    )


def random_case(seed, shape=(3, 8, 40)):
    """(logits, teacher_logits, targets, mask) of random numbers."""
    rng = np.random.default_rng(seed)
    logits, teacher = (rng.normal(size=(2, *shape)) * 3).astype(np.float32)
    targets = rng.integers(0, shape[-1], size=shape[:-1]).astype(np.int32)
    mask = rng.random(shape[:-1]) < 0.6
    targets[~mask] = -1
    return logits, teacher, targets, mask


def expected(logits, teacher, targets, mask, terms, weights):
    """A language model's loss, gradient and parts in float64."""
    parts = {
        "task": reference.cross_entropy(logits, targets, mask),
        "consistency": reference.consistency(logits, teacher, mask, terms.consistency.temperature),
        "diversity": reference.diversity(logits, mask, terms.diversity.top_k),
        "svd": reference.svd(logits, mask, terms.svd.k, terms.svd.norm),
    }
    scale = {"task": 1.0, **weights}
    loss = sum(scale[name] * value for name, (value, _) in parts.items())
    gradient = sum(scale[name] * grad for name, (_, grad) in parts.items())
    return loss, gradient, {name: value for name, (value, _) in parts.items()}


@pytest.mark.parametrize("version", PAPER)
@pytest.mark.parametrize("seed", [0, 1])
def test_loss_parts_and_gradient_equal_float64(version, seed):
    terms = PAPER[version]
    case = random_case(seed)
    function = jax.jit(jax.value_and_grad(nlg, has_aux=True), static_argnames="terms")
    (loss, parts), gradient = function(*case, terms=terms, weights=WEIGHTS)
    true_loss, true_gradient, true_parts = expected(*case, terms, WEIGHTS)
    np.testing.assert_allclose(loss, true_loss, rtol=1e-5)
    assert np.linalg.norm(gradient - true_gradient) <= 1e-4 * np.linalg.norm(true_gradient)
    for name, value in true_parts.items():
        np.testing.assert_allclose(parts[name], value, rtol=1e-5)
    for name, weight in WEIGHTS.items():
        np.testing.assert_allclose(parts[f"weight_{name}"], weight, rtol=1e-6)


def test_without_terms_the_loss_is_cross_entropy_and_needs_no_teacher():
    logits, _, targets, mask = random_case(2)
    loss, parts = nlg(logits, None, targets, mask, terms=NONE, weights={})
    assert set(parts) == {"task"} and loss == parts["task"]
    np.testing.assert_allclose(loss, reference.cross_entropy(logits, targets, mask)[0], rtol=1e-5)


def test_a_term_without_weight_is_absent_from_the_program():
    case = random_case(3)

    def program(terms):
        names = ("consistency", "diversity", "svd")
        weights = {name: 1.0 for name in names if getattr(terms, name).weight > 0}
        return str(jax.make_jaxpr(lambda *a: nlg(*a, terms=terms, weights=weights))(*case))

    assert "svd" in program(PAPER["2026"]) and "top_k" in program(PAPER["2026"])
    assert "svd" not in program(NONE) and "top_k" not in program(NONE)


def test_adaptive_weight_follows_the_teachers_confidence():
    consistency = ConsistencyConfig(weight=0.3, schedule="adaptive", final=0.2)
    terms = RegularizersConfig(
        consistency=consistency, diversity=DiversityConfig(weight=0.0), svd=SvdConfig(weight=0.0)
    )
    logits, teacher, targets, mask = random_case(4)
    loss, parts = nlg(logits, teacher, targets, mask, terms=terms, weights={"consistency": 0.3})
    # The official code's entropy is that of the softmax at the distillation temperature, 2 here.
    entropy = reference.entropies(teacher[mask].astype(np.float64) / 2.0).mean()
    confidence = 1 - entropy / math.log(40)
    weight = 0.3 * (0.2 + 0.8 * confidence)
    np.testing.assert_allclose(parts["weight_consistency"], weight, rtol=1e-5)
    np.testing.assert_allclose(loss, parts["task"] + weight * parts["consistency"], rtol=1e-6)


def test_an_empty_mask_gives_zero_with_zero_gradient():
    logits, teacher, targets, mask = random_case(5)
    function = jax.value_and_grad(nlg, has_aux=True)
    empty = np.zeros_like(mask)
    (loss, _), gradient = function(
        logits, teacher, targets, empty, terms=PAPER["2026"], weights=WEIGHTS
    )
    assert loss == 0
    np.testing.assert_array_equal(gradient, 0)


def test_parts_and_teacher_carry_no_gradient():
    case = random_case(6)

    def through_parts(logits, teacher):
        loss, parts = nlg(logits, teacher, *case[2:], terms=PAPER["2026"], weights=WEIGHTS)
        return loss + sum(parts.values())

    def alone(logits, teacher):
        return nlg(logits, teacher, *case[2:], terms=PAPER["2026"], weights=WEIGHTS)[0]

    actual, teacher_gradient = jax.grad(through_parts, argnums=(0, 1))(*case[:2])
    np.testing.assert_allclose(actual, jax.grad(alone)(*case[:2]), rtol=1e-6)
    np.testing.assert_array_equal(teacher_gradient, 0)


def test_vmap_equals_a_loop_and_traces_once():
    cases = [random_case(seed) for seed in (7, 8)]
    chex.clear_trace_counter()

    @chex.assert_max_traces(n=1)
    def loss(*case):
        return nlg(*case, terms=PAPER["2026"], weights=WEIGHTS)[0]

    stacked = [jnp.stack(parts) for parts in zip(*cases, strict=True)]
    losses = jax.jit(jax.vmap(loss))(*stacked)
    singly = [nlg(*case, terms=PAPER["2026"], weights=WEIGHTS)[0] for case in cases]
    np.testing.assert_allclose(losses, singly, rtol=1e-5)


def test_shapes_that_do_not_fit_are_refused():
    logits, teacher, targets, mask = random_case(9)
    for bad in ((logits, teacher[:, :-1], targets, mask), (logits, teacher, targets[:, :-1], mask)):
        with pytest.raises(AssertionError):
            nlg(*bad, terms=PAPER["2026"], weights=WEIGHTS)


NLU = {
    "2026": RegularizersConfig(
        consistency=ConsistencyConfig(weight=0.15), diversity=DiversityConfig(weight=0.03),
        svd=SvdConfig(weight=0.03, k=2),
    ),
    "2024": RegularizersConfig(
        consistency=ConsistencyConfig(weight=1e-4, form="mse"),
        diversity=DiversityConfig(weight=4e-4), svd=SvdConfig(weight=1e-4, k=3),
    ),
}  # fmt: skip


def nlu_expected(logits, teacher, labels, terms):
    """A classifier's loss, gradient and parts in float64."""
    z = logits.astype(np.float64)
    t = teacher.astype(np.float64)
    every_example = np.ones(len(labels), bool)
    if terms.consistency.form == "kl":
        consistency = reference.nlu_consistency_kl(z, t, 2.0)
    else:
        consistency = reference.nlu_consistency_mse(z, t)
    parts = {
        "task": reference.cross_entropy(z, labels, every_example),
        "consistency": consistency,
        "diversity": reference.nlu_diversity(z),
        "svd": reference.nlu_svd(z, terms.svd.k),
    }
    scale = {"task": 1.0, **WEIGHTS}
    loss = sum(scale[name] * value for name, (value, _) in parts.items())
    gradient = sum(scale[name] * slope for name, (_, slope) in parts.items())
    return loss, gradient, {name: part[0] for name, part in parts.items()}


@pytest.mark.parametrize("version", NLU)
def test_a_classifiers_loss_equals_float64(version):
    rng = np.random.default_rng(0)
    logits, teacher = rng.normal(size=(2, 12, 5)).astype(np.float32) * 2
    # The batch has no example of class 4.
    labels = rng.integers(0, 4, 12)
    function = jax.value_and_grad(nlu, has_aux=True)
    (loss, parts), gradient = function(
        logits, teacher, labels, terms=NLU[version], weights=WEIGHTS, regression=False
    )
    true_loss, true_gradient, true_parts = nlu_expected(logits, teacher, labels, NLU[version])
    np.testing.assert_allclose(loss, true_loss, rtol=1e-5)
    np.testing.assert_allclose(gradient, true_gradient, rtol=1e-4, atol=1e-6)
    for name, value in true_parts.items():
        np.testing.assert_allclose(parts[name], value, rtol=1e-5, atol=1e-6)


def test_regression_uses_the_squared_error_and_one_logit_has_constant_terms():
    rng = np.random.default_rng(0)
    logits, teacher = rng.normal(size=(2, 9, 1)).astype(np.float32)
    labels = rng.random(9).astype(np.float32) * 5
    function = jax.value_and_grad(nlu, has_aux=True)
    (_, parts), gradient = function(
        logits, teacher, labels, terms=NLU["2026"], weights=WEIGHTS, regression=True
    )
    np.testing.assert_allclose(parts["task"], np.mean((logits[:, 0] - labels) ** 2), rtol=1e-6)
    assert parts["diversity"] == 0 and parts["consistency"] == 0 and parts["svd"] == -1
    np.testing.assert_allclose(
        gradient[:, 0], 2 * (logits[:, 0] - labels) / 9, rtol=1e-5, atol=1e-6
    )


def test_a_class_without_examples_changes_the_task_loss_alone():
    logits, teacher = np.random.default_rng(0).normal(size=(2, 9, 3)).astype(np.float32)
    function = jax.value_and_grad(nlu, has_aux=True)
    settings = {"terms": NLU["2026"], "weights": WEIGHTS, "regression": False}
    (_, parts), _ = function(logits, teacher, np.arange(9) % 3, **settings)
    (loss, others), gradient = function(logits, teacher, np.arange(9) % 2, **settings)
    assert np.isfinite(loss) and np.isfinite(gradient).all() and parts["task"] != others["task"]
    assert all(parts[name] == others[name] for name in ("consistency", "diversity", "svd"))


def test_one_example_has_a_loss_and_a_gradient():
    logits, teacher = np.random.default_rng(0).normal(size=(2, 1, 3)).astype(np.float32)
    function = jax.value_and_grad(nlu, has_aux=True)
    (loss, parts), gradient = function(
        logits, teacher, np.array([2]), terms=NLU["2026"], weights=WEIGHTS, regression=False
    )
    assert np.isfinite(loss) and np.isfinite(gradient).all()
    assert parts["diversity"] == 0
    np.testing.assert_allclose(parts["svd"], -1, rtol=1e-6)
