"""Registered terms: checked before a run, and equal in the streamed and the plain form."""

import dataclasses
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from plugin_cases import margin, mean_square, no_trace, reverse_kl
from streaming_cases import (
    assert_same,
    plain_loss,
    random_batch,
    random_head,
    streamed_loss,
    value_and_gradient,
)

import balora_jax
from balora_jax.config import regularizers_config
from balora_jax.errors import BadInput
from balora_jax.objective import plain
from balora_jax.regularizers.registration import check_registered
from balora_jax.regularizers.terms import make_terms

WEIGHTS = {
    "consistency": 0.3,
    "diversity": 0.2,
    "svd": 0.7,
    "reverse_kl": 0.4,
    "margin": 0.1,
    "mean_square": 0.05,
}


@pytest.fixture
def config():
    """The paper's terms and three registered ones."""
    with no_trace():
        balora_jax.register_term("reverse_kl", reverse_kl, needs_teacher=True)
        balora_jax.register_term("margin", margin)
        balora_jax.register_term("mean_square", mean_square, per="batch")
        sections = regularizers_config()()
        changed = {
            name: dataclasses.replace(getattr(sections, name), weight=0.5)
            for name in ("reverse_kl", "margin", "mean_square")
        }
        yield dataclasses.replace(sections, **changed)


@pytest.mark.parametrize("chunk_size", [7, 1000])
@pytest.mark.parametrize("head", [{}, {"bias": True}, {"softcap": 5.0}])
def test_streamed_equals_plain(config, chunk_size, head):
    hidden, teacher, targets, mask = random_batch(1)
    arguments = teacher, random_head(**head), targets, mask, config, WEIGHTS
    actual = value_and_gradient(streamed_loss, hidden, *arguments, chunk_size=chunk_size)
    assert set(WEIGHTS) <= set(actual[0][1])
    assert_same(actual, value_and_gradient(plain_loss, hidden, *arguments), gradient=1e-5)


def test_streamed_on_eight_devices_equals_plain_on_one(config):
    hidden, teacher, targets, mask = random_batch(
        2, shape=(8, 9), width=16, vocabulary=3200, keep=0.6
    )
    head = random_head(2, width=16, vocabulary=3200)
    arguments = teacher, head, targets, mask, config, WEIGHTS
    expected = value_and_gradient(plain_loss, hidden, *arguments)

    mesh = jax.make_mesh((2, 2, 2), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
    by_token = NamedSharding(mesh, P(("data", "fsdp")))
    placed = [jax.device_put(array, by_token) for array in (hidden, teacher, targets, mask)]
    kernel = jax.device_put(head.kernel, NamedSharding(mesh, P("fsdp", "tensor")))
    hidden, teacher, targets, mask = placed
    arguments = teacher, head.replace(kernel=kernel), targets, mask, config, WEIGHTS
    actual = value_and_gradient(streamed_loss, hidden, *arguments, chunk_size=5, mesh=mesh)
    assert_same(actual, expected, gradient=1e-5)


def test_states_at_masked_positions_do_not_matter(config):
    hidden, teacher, targets, mask = random_batch(3)
    arguments = random_head(), targets, mask, config, WEIGHTS
    expected = value_and_gradient(streamed_loss, hidden, teacher, *arguments, chunk_size=8)
    hidden, teacher = (jnp.where(mask[..., None], states, jnp.nan) for states in (hidden, teacher))
    actual = value_and_gradient(streamed_loss, hidden, teacher, *arguments, chunk_size=8)
    assert_same(actual, expected)
    np.testing.assert_array_equal(actual[1][~mask], 0)


def test_a_classifiers_examples_count_as_tokens(config):
    rng = np.random.default_rng(0)
    logits, teacher = jnp.asarray(rng.normal(size=(2, 12, 5)), jnp.float32)
    labels = jnp.asarray(rng.integers(5, size=12), jnp.int32)
    terms = make_terms(config.acting, "nlu")
    every_example = jnp.ones(12, bool)
    _, parts = plain.objective(logits, teacher, labels, every_example, terms=terms, weights=WEIGHTS)
    q, p = (np.asarray(jax.nn.log_softmax(z), np.float64) for z in (logits, teacher))
    np.testing.assert_allclose(
        parts["reverse_kl"], np.mean(np.sum(np.exp(q) * (q - p), axis=-1)), rtol=1e-5
    )
    np.testing.assert_allclose(parts["mean_square"], np.mean(np.square(logits)), rtol=1e-5)


BAD_FUNCTIONS = {
    "returns [2, 3, 40] for logits [2, 3, 40]; accepted: [2, 3]": lambda z, t, y: z,
    "returns [] for logits": lambda z, t, y: jnp.mean(z),
    "returns tuple for logits": lambda z, t, y: (z[..., 0], z[..., 0]),
    "is not finite: its value": lambda z, t, y: jnp.log(-jnp.square(z[..., 0])),
    "is not finite: its gradient": lambda z, t, y: jnp.sqrt(jnp.sum(z, -1) * 0),
    "fails on logits [2, 3, 40] (ValueError: no)": lambda z, t, y: (_ for _ in ()).throw(
        ValueError("no")
    ),
    "fails on logits [2, 3, 40] (TypeError": lambda z: z,
    "fails on logits [2, 3, 40] (SystemExit: 0)": lambda z, t, y: sys.exit(0),
    "returns int32 for logits [2, 3, 40]; accepted: floating": lambda z, t, y: jnp.argmax(z, -1),
    "returns bool for logits": lambda z, t, y: z[..., 0] > 0,
    "returns complex64 for logits": lambda z, t, y: z[..., 0] + 1j,
}


@pytest.mark.parametrize("sentence", BAD_FUNCTIONS)
def test_unusable_functions_are_refused(sentence):
    with no_trace():
        balora_jax.register_term("odd", BAD_FUNCTIONS[sentence])
        section = regularizers_config()().odd
        terms = make_terms({"odd": dataclasses.replace(section, weight=1.0)}, "nlg")
        with pytest.raises(BadInput) as error:
            check_registered(terms, (2, 3), 40)
        assert f"the term odd {sentence}" in str(error.value)


@pytest.mark.parametrize(
    "name, options, sentence",
    [
        ("svd", {}, "there is a term 'svd' already"),
        ("svd", {"overwrite": True}, "there is a term 'svd' already"),
        ("my term", {}, "a term cannot be called 'my term'"),
        ("loss", {}, "a term cannot be called 'loss'"),
        ("weight_x", {}, "a term cannot be called 'weight_x'"),
        ("eval_loss", {}, "a term cannot be called 'eval_loss'"),
        ("probe_x", {}, "a term cannot be called 'probe_x'"),
        ("_x", {}, "a term cannot be called '_x'"),
        ("class", {}, "a term cannot be called 'class'"),
        ("None", {}, "a term cannot be called 'None'"),
        ("terms", {}, "a term cannot be called 'terms'"),
        ("acting", {}, "a term cannot be called 'acting'"),
        ("mine", {"per": "row"}, "is per 'row'; accepted: token, batch"),
        ("mine", {"per": "batch", "needs_teacher": True}, "accepted: per token"),
    ],
)
def test_bad_registrations_are_refused(name, options, sentence):
    with no_trace(), pytest.raises(BadInput, match=sentence):
        balora_jax.register_term(name, margin, **options)


def test_a_term_may_be_overwritten_on_request():
    with no_trace():
        balora_jax.register_term("margin", margin)
        with pytest.raises(BadInput, match="already"):
            balora_jax.register_term("margin", margin)
        balora_jax.register_term("margin", reverse_kl, needs_teacher=True, overwrite=True)
        section = dataclasses.replace(regularizers_config()().margin, weight=1.0)
        assert make_terms({"margin": section}, "nlg")["margin"].function.function is reverse_kl
