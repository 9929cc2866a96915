"""The streamed objective equals the plain one for every head, chunk size, schedule and version."""

import dataclasses
import functools

import chex
import float64_reference as reference
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from streaming_cases import (
    assert_same,
    plain_loss,
    random_batch,
    random_head,
    streamed_loss,
    value_and_gradient,
)
from term_cases import PAPER, WEIGHTS, only

from balora_jax.config import ConsistencyConfig, RegularizersConfig
from balora_jax.objective import streamed
from balora_jax.objective.spectrum import head_factor
from balora_jax.training.term_schedules import weights_at

BY_TOKEN = {version: only("consistency", "diversity", version=version) for version in PAPER}


@functools.cache
def plain_case(version, with_svd):
    """(hidden, the other arguments, the plain objective's result), computed once."""
    hidden, teacher, targets, mask = random_batch()
    arguments = (
        teacher,
        random_head(),
        targets,
        mask,
        PAPER[version] if with_svd else BY_TOKEN[version],
    )
    return hidden, arguments, value_and_gradient(plain_loss, hidden, *arguments)


@pytest.mark.parametrize("version", PAPER)
@pytest.mark.parametrize("chunk_size", [7, 1000])
def test_all_terms_equal_the_plain_form(chunk_size, version):
    hidden, arguments, expected = plain_case(version, True)
    assert_same(
        value_and_gradient(streamed_loss, hidden, *arguments, chunk_size=chunk_size), expected
    )


@pytest.mark.parametrize("version", PAPER)
@pytest.mark.parametrize("chunk_size", [1, 7, 10, 36, 60, None])
def test_equals_the_plain_form_at_every_chunk_size(chunk_size, version):
    hidden, arguments, expected = plain_case(version, False)
    assert_same(
        value_and_gradient(streamed_loss, hidden, *arguments, chunk_size=chunk_size), expected
    )


HEADS = {
    "bias": {"bias": True},
    "soft-cap": {"softcap": 5.0},
    "bias and soft-cap": {"bias": True, "softcap": 5.0},
    "vocabulary of whole groups": {"vocabulary": 3200},
    "small vocabulary": {"vocabulary": 67},
    "vocabulary below top_k": {"vocabulary": 11},
}


@pytest.mark.parametrize("version", PAPER)
@pytest.mark.parametrize("kind", HEADS)
def test_equals_the_plain_form_for_every_head(kind, version):
    head = random_head(**HEADS[kind])
    hidden, teacher, targets, mask = random_batch(1, vocabulary=head.kernel.shape[1])
    arguments = teacher, head, targets, mask, BY_TOKEN[version]
    expected = value_and_gradient(plain_loss, hidden, *arguments)
    assert_same(value_and_gradient(streamed_loss, hidden, *arguments, chunk_size=8), expected)


@pytest.mark.parametrize("temperature", [0.7, 1.0, 2.0, 3.0])
@pytest.mark.parametrize("top_k", [None, 2, 20])
def test_equals_the_plain_form_at_every_temperature_and_top_k(temperature, top_k):
    terms = BY_TOKEN["2026"]
    terms = dataclasses.replace(
        terms,
        consistency=dataclasses.replace(terms.consistency, temperature=temperature),
        diversity=dataclasses.replace(terms.diversity, top_k=top_k),
    )
    hidden, teacher, targets, mask = random_batch(2)
    arguments = teacher, random_head(), targets, mask, terms
    expected = value_and_gradient(plain_loss, hidden, *arguments)
    assert_same(value_and_gradient(streamed_loss, hidden, *arguments, chunk_size=8), expected)


@pytest.mark.parametrize(
    "schedule", ["constant", "cosine", "two-phase", "linear", "quadratic", "adaptive"]
)
def test_equals_the_plain_form_under_every_schedule(schedule):
    others = "constant" if schedule == "adaptive" else schedule
    terms = PAPER["2026"]
    terms = RegularizersConfig(
        consistency=ConsistencyConfig(weight=0.8, schedule=schedule, final=0.2),
        diversity=dataclasses.replace(terms.diversity, weight=0.5, schedule=others),
        svd=dataclasses.replace(terms.svd, weight=0.5, schedule=others),
    )
    batch = random_batch(3)
    head = random_head()

    @jax.jit
    def both(step, hidden, teacher, targets, mask):
        weights = weights_at(terms.acting, 100)(step)
        functions = plain_loss, lambda *arguments: streamed_loss(*arguments, chunk_size=8)
        arguments = teacher, head, targets, mask, terms, weights
        return [
            jax.value_and_grad(function, has_aux=True)(hidden, *arguments) for function in functions
        ]

    for step in (0, 23, 80):
        expected, actual = both(step, *batch)
        assert_same(actual, expected)
        if schedule == "adaptive":
            assert 0.16 < actual[0][1]["weight_consistency"] < 0.8


@pytest.mark.parametrize(
    "names", [(), ("consistency",), ("diversity",), ("svd",), ("consistency", "svd")]
)
def test_terms_switched_off_are_absent(names):
    hidden, teacher, targets, mask = random_batch(4)
    teacher = teacher if "consistency" in names else None
    weights = {name: WEIGHTS[name] for name in names}
    arguments = teacher, random_head(), targets, mask, only(*names), weights
    actual = value_and_gradient(streamed_loss, hidden, *arguments)
    parts = {"task", *names, *(f"weight_{name}" for name in names)}
    if "svd" in names:
        parts.add("unsettled_svd")
    assert set(actual[0][1]) == parts
    assert_same(actual, value_and_gradient(plain_loss, hidden, *arguments))


@pytest.mark.parametrize("kind", ["bias", "soft-cap"])
def test_the_svd_term_equals_the_plain_form_on_every_head(kind):
    head = random_head(**HEADS[kind])
    hidden, teacher, targets, mask = random_batch(17)
    arguments = teacher, head, targets, mask, only("svd")
    assert_same(
        value_and_gradient(streamed_loss, hidden, *arguments),
        value_and_gradient(plain_loss, hidden, *arguments),
    )


def test_equals_float64():
    hidden, teacher, targets, mask = random_batch(5)
    head = random_head()
    terms = PAPER["2026"]
    kernel = np.asarray(head.kernel, np.float64)
    logits = np.asarray(hidden) @ kernel
    teacher_logits = np.asarray(teacher) @ kernel
    mask = np.asarray(mask)
    parts = {
        "task": reference.cross_entropy(logits, np.asarray(targets), mask),
        "consistency": reference.consistency(logits, teacher_logits, mask, 2.0),
        "diversity": reference.diversity(logits, mask, 20),
        "svd": reference.svd(logits, mask, 10, "frobenius"),
    }
    scales = {"task": 1.0, **WEIGHTS}
    loss = sum(scales[name] * value for name, (value, _) in parts.items())
    gradient = sum(scales[name] * slope for name, (_, slope) in parts.items()) @ kernel.T
    values = {name: value for name, (value, _) in parts.items()}
    values |= {f"weight_{name}": weight for name, weight in WEIGHTS.items()}
    actual = value_and_gradient(
        streamed_loss, hidden, teacher, head, targets, mask, terms, chunk_size=8
    )
    assert_same(actual, ((loss, values), gradient))


def test_bfloat16_states_and_head_accumulate_in_float32():
    hidden, teacher, targets, mask = random_batch(6, dtype=jnp.bfloat16)
    head = random_head(dtype=jnp.bfloat16)
    actual = value_and_gradient(
        streamed_loss, hidden, teacher, head, targets, mask, PAPER["2026"], chunk_size=8
    )
    assert actual[1].dtype == jnp.bfloat16 and actual[0][0].dtype == jnp.float32
    exact = [array.astype(jnp.float32) for array in (hidden, teacher, head.kernel)]
    arguments = exact[1], head.replace(kernel=exact[2]), targets, mask, PAPER["2026"]
    expected = value_and_gradient(plain_loss, exact[0], *arguments)
    # Two roundings to bfloat16, of the logits' gradient and of the states': 2^-8 each at most.
    assert_same(actual, expected, gradient=4e-3)


def test_cross_entropy_alone():
    hidden, _, targets, mask = random_batch(7)
    head = random_head(bias=True)
    actual = streamed.cross_entropy(hidden, head, targets, mask, chunk_size=8)
    logits = np.asarray(head.logits(hidden), np.float64)
    np.testing.assert_allclose(
        actual, reference.cross_entropy(logits, np.asarray(targets), np.asarray(mask))[0], rtol=1e-5
    )


def test_student_equal_to_teacher_shows_no_divergence():
    hidden, _, targets, mask = random_batch(8)
    nudged = hidden * (1 + 1e-6)
    _, parts = streamed_loss(
        hidden, nudged, random_head(), targets, mask, only("consistency"), {"consistency": 1.0}
    )
    # Computed as sum p log(p / q), rounding would give about 1e-6 here.
    assert abs(parts["consistency"]) < 1e-7


def test_the_loss_scale_multiplies_the_gradient():
    hidden, teacher, targets, mask = random_batch(9)
    arguments = teacher, random_head(), targets, mask, PAPER["2026"]
    once = jax.grad(lambda states: streamed_loss(states, *arguments)[0])(hidden)
    scaled = jax.grad(lambda states: -3.5 * streamed_loss(states, *arguments)[0])(hidden)
    np.testing.assert_allclose(scaled, -3.5 * once, rtol=1e-4, atol=1e-6)


def test_gradients_go_to_states_and_weights_alone():
    hidden, teacher, targets, mask = random_batch(10)
    head = random_head(bias=True)
    factor = head_factor(head)

    def loss(hidden, teacher, head, factor, weights):
        arguments = teacher, head, targets, mask, PAPER["2026"], weights
        actual, parts = streamed_loss(hidden, *arguments, factor=factor)
        return actual + 5 * sum(parts.values())

    def alone(hidden):
        return streamed_loss(hidden, teacher, head, targets, mask, PAPER["2026"], factor=factor)

    weights = {name: jnp.float32(weight) for name, weight in WEIGHTS.items()}
    actual = jax.grad(loss, argnums=(0, 1, 2, 3, 4))(hidden, teacher, head, factor, weights)
    (_, parts), slope = jax.value_and_grad(alone, has_aux=True)(hidden)
    np.testing.assert_allclose(actual[0], slope, rtol=1e-5, atol=1e-7)
    for frozen in jax.tree.leaves(actual[1:4]):
        np.testing.assert_array_equal(frozen, 0)
    for name in weights:
        np.testing.assert_allclose(actual[4][name], parts[name], rtol=1e-5)


@pytest.mark.parametrize("version", PAPER)
def test_an_empty_mask_gives_zero_with_zero_gradient(version):
    hidden, teacher, targets, mask = random_batch(11)
    arguments = teacher, random_head(), targets, jnp.zeros_like(mask), PAPER[version]
    (loss, parts), gradient = value_and_gradient(streamed_loss, hidden, *arguments, chunk_size=8)
    assert loss == 0 and all(parts[name] == 0 for name in ("task", *WEIGHTS))
    np.testing.assert_array_equal(gradient, 0)


def test_states_at_masked_positions_do_not_matter():
    hidden, teacher, targets, mask = random_batch(12)
    arguments = random_head(), targets, mask, PAPER["2026"]
    expected = value_and_gradient(streamed_loss, hidden, teacher, *arguments, chunk_size=8)
    hidden, teacher = (jnp.where(mask[..., None], states, jnp.nan) for states in (hidden, teacher))
    actual = value_and_gradient(streamed_loss, hidden, teacher, *arguments, chunk_size=8)
    assert_same(actual, expected)
    np.testing.assert_array_equal(actual[1][~mask], 0)


@pytest.mark.parametrize(
    "states", [np.zeros((1, 6, 12)), np.full((1, 6, 12), 1e4), np.eye(6, 12)[None]]
)
def test_degenerate_states_have_finite_gradients(states):
    hidden = jnp.asarray(states, jnp.float32)
    targets = jnp.zeros((1, 6), jnp.int32)
    mask = jnp.ones((1, 6), bool)
    (loss, _), gradient = value_and_gradient(
        streamed_loss, hidden, hidden[:, ::-1] + 0.5, random_head(), targets, mask, PAPER["2026"]
    )
    assert jnp.isfinite(loss) and jnp.isfinite(gradient).all()


def test_each_group_sees_its_part_of_the_batch():
    terms = only("svd")
    terms = dataclasses.replace(terms, svd=dataclasses.replace(terms.svd, k=2, groups=2))
    hidden, _, targets, mask = random_batch(13)
    arguments = None, random_head(), targets, mask, terms, {"svd": 0.7}
    actual = value_and_gradient(streamed_loss, hidden, *arguments)
    assert_same(actual, value_and_gradient(plain_loss, hidden, *arguments))
    whole = dataclasses.replace(terms, svd=dataclasses.replace(terms.svd, groups=1))
    halves = [
        streamed_loss(
            hidden[rows], None, random_head(), targets[rows], mask[rows], whole, {"svd": 0.7}
        )[1]["svd"]
        for rows in (slice(0, 2), slice(2, 4))
    ]
    np.testing.assert_allclose(actual[0][1]["svd"], np.mean(halves), rtol=1e-5)


def test_vmap_equals_a_loop_and_traces_once():
    batches = [random_batch(seed, keep=keep) for seed, keep in ((14, 0.9), (15, 0.2))]
    head = random_head()
    chex.clear_trace_counter()

    @chex.assert_max_traces(n=1)
    def loss(hidden, teacher, targets, mask):
        return streamed_loss(hidden, teacher, head, targets, mask, PAPER["2026"], chunk_size=8)

    stacked = [jnp.stack(parts) for parts in zip(*batches, strict=True)]
    many = jax.jit(jax.vmap(jax.value_and_grad(loss, has_aux=True)))
    many(*[array[::-1] for array in stacked])
    actual = many(*stacked)
    for index, (hidden, teacher, targets, mask) in enumerate(batches):
        expected = value_and_gradient(
            streamed_loss, hidden, teacher, head, targets, mask, PAPER["2026"], chunk_size=8
        )
        assert_same(jax.tree.map(lambda leaf, index=index: leaf[index], actual), expected)


@pytest.mark.parametrize("bad", ["hidden", "teacher", "targets"])
def test_shapes_that_do_not_fit_are_refused(bad):
    arrays = dict(zip(("hidden", "teacher", "targets", "mask"), random_batch(16), strict=True))
    arrays[bad] = arrays[bad][:, :-1]
    with pytest.raises(AssertionError):
        streamed_loss(
            arrays["hidden"],
            arrays["teacher"],
            random_head(),
            arrays["targets"],
            arrays["mask"],
            PAPER["2026"],
        )
