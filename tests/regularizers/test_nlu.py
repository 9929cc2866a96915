"""Classifier regularizers against float64: reference vectors, and an independent numpy form."""

import chex
import float64_reference as reference
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from balora_jax.regularizers import nlu

CASES = {
    "consistency_kl_t2": lambda z, t: nlu.consistency(z, t, form="kl", temperature=2.0),
    "consistency_mse": lambda z, t: nlu.consistency(z, t, form="mse"),
    "diversity": lambda z, t: nlu.diversity(z),
    "svd_k2_nuclear": lambda z, t: nlu.svd(z, k=2),
}
EXPECTED = {
    "consistency_kl_t2": lambda z, t: reference.nlu_consistency_kl(z, t, 2.0),
    "consistency_mse": reference.nlu_consistency_mse,
    "diversity": lambda z, t: reference.nlu_diversity(z),
    "svd_k2_nuclear": lambda z, t: reference.nlu_svd(z, 2),
}


def assert_same(actual, expected):
    value, gradient = actual
    true_value, true_gradient = expected
    assert value.dtype == jnp.float32 and value.shape == ()
    np.testing.assert_allclose(value, true_value, rtol=1e-5, atol=1e-5)
    error = np.linalg.norm(np.asarray(gradient, np.float64) - true_gradient)
    assert error <= 1e-4 * np.linalg.norm(true_gradient) + 1e-12


def random_case(seed, shape, scale=2.0):
    """(logits, teacher_logits) of random numbers."""
    logits, teacher = np.random.default_rng(seed).normal(size=(2, *shape)) * scale
    return logits.astype(np.float32), teacher.astype(np.float32)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("number", [0, 1, 2])
def test_equals_the_reference_vectors(shared, number, name):
    vectors = np.load(shared / "reference" / f"vectors_{number}.npz")
    actual = jax.jit(jax.value_and_grad(CASES[name]))(vectors["nlu_logits"], vectors["nlu_teacher"])
    assert_same(actual, (vectors[f"nlu_{name}"], vectors[f"nlu_{name}_grad"]))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("shape", [(8, 3), (5, 12), (33, 6), (3, 4)])
def test_equals_float64(name, shape):
    arrays = random_case(sum(shape), shape)
    expected = EXPECTED[name](*[z.astype(np.float64) for z in arrays])
    assert_same(jax.value_and_grad(CASES[name])(*arrays), expected)


@pytest.mark.parametrize("shape", [(16, 2), (16, 3), (2, 7)])
def test_svd_is_the_constant_minus_one_when_every_direction_leads(shape):
    logits, _ = random_case(1, shape)
    value, gradient = jax.value_and_grad(nlu.svd)(logits, k=5)
    np.testing.assert_allclose(value, -1, rtol=1e-6)
    np.testing.assert_allclose(gradient, 0, atol=1e-6)


def test_one_class_has_no_divergence_and_no_covariance():
    logits, teacher = random_case(2, (9, 1))
    for name in ("consistency_kl_t2", "diversity"):
        value, gradient = jax.value_and_grad(CASES[name])(logits, teacher)
        assert value == 0
        np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("name", ["consistency_kl_t2", "consistency_mse"])
def test_consistency_is_zero_at_equality_and_gives_the_teacher_no_gradient(name):
    logits, teacher = random_case(3, (9, 4))
    assert CASES[name](logits, logits) == 0
    np.testing.assert_array_equal(jax.grad(CASES[name], argnums=1)(logits, teacher), 0)


DEGENERATE = {
    "zeros": np.zeros((6, 4)),
    "ties": np.repeat(np.arange(6.0)[:, None] // 2, 4, axis=1),
    "one example": np.arange(4.0)[None],
    "one class": np.arange(6.0)[:, None],
    "one number": np.ones((1, 1)),
    "rank 1": np.outer(np.arange(6.0), np.arange(4.0) - 1),
    "repeated singular values": np.eye(6, 4),
    "huge": np.random.default_rng(0).normal(size=(6, 4)) * 1e4,
    "tiny": np.random.default_rng(1).normal(size=(6, 4)) * 1e-6,
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kind", DEGENERATE)
def test_value_and_gradient_are_finite(kind, name):
    logits = jnp.asarray(DEGENERATE[kind], jnp.float32)
    for teacher in (logits[::-1] + 0.5, jnp.zeros_like(logits)):
        value, gradient = jax.value_and_grad(CASES[name])(logits, teacher)
        assert jnp.isfinite(value) and jnp.isfinite(gradient).all()


@pytest.mark.parametrize("name", CASES)
def test_equal_zero_logits_give_zero_with_zero_gradient(name):
    logits = jnp.zeros((6, 4))
    value, gradient = jax.value_and_grad(CASES[name])(logits, logits)
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("name", CASES)
def test_bfloat16_logits_are_computed_in_float32(name):
    rounded = [jnp.asarray(z, jnp.bfloat16) for z in random_case(4, (12, 5))]
    value = CASES[name](*rounded)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(
        value, CASES[name](*[z.astype(jnp.float32) for z in rounded]), rtol=1e-6
    )


@pytest.mark.parametrize("name", CASES)
def test_vmap_equals_a_loop_and_traces_once(name):
    batches = [random_case(seed, (7, 5)) for seed in (5, 6, 7)]
    stacked = [jnp.stack(parts) for parts in zip(*batches, strict=True)]
    chex.clear_trace_counter()
    counted = chex.assert_max_traces(CASES[name], n=1)
    function = jax.jit(jax.vmap(jax.value_and_grad(counted)))
    function(*[array[::-1] for array in stacked])
    values, gradients = function(*stacked)
    for index, batch in enumerate(batches):
        value, gradient = jax.value_and_grad(CASES[name])(*batch)
        np.testing.assert_allclose(values[index], value, rtol=1e-5)
        np.testing.assert_allclose(gradients[index], gradient, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    "call",
    [
        lambda z: nlu.consistency(z, z[:-1]),
        lambda z: nlu.consistency(z, z[:, :-1], form="mse"),
        lambda z: nlu.diversity(z[0]),
        lambda z: nlu.svd(z[None], k=1),
    ],
)
def test_shapes_that_do_not_fit_are_refused(call):
    with pytest.raises(AssertionError):
        call(random_case(8, (4, 3))[0])
