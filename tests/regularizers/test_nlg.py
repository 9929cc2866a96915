"""Language-model regularizers against float64: reference vectors, and an independent numpy form."""

import chex
import float64_reference as reference
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from balora_jax.regularizers import nlg

CASES = {
    "consistency_t2": lambda z, t, m: nlg.consistency(z, t, m, temperature=2.0),
    "consistency_t1": lambda z, t, m: nlg.consistency(z, t, m, temperature=1.0),
    "diversity_k20": lambda z, t, m: nlg.diversity(z, m, top_k=20),
    "diversity_full": lambda z, t, m: nlg.diversity(z, m, top_k=None),
    "svd_k5_frobenius": lambda z, t, m: nlg.svd(z, m, k=5),
    "svd_k5_nuclear": lambda z, t, m: nlg.svd(z, m, k=5, norm="nuclear"),
}


def assert_same(actual, expected, value_tolerance=1e-5, gradient_tolerance=1e-4):
    value, gradient = actual
    true_value, true_gradient = expected
    assert value.dtype == jnp.float32 and value.shape == ()
    np.testing.assert_allclose(value, true_value, rtol=value_tolerance, atol=value_tolerance)
    error = np.linalg.norm(np.asarray(gradient, np.float64) - true_gradient)
    assert error <= gradient_tolerance * np.linalg.norm(true_gradient) + 1e-12


def random_case(seed, shape, scale=3.0, keep=0.6):
    """(logits, teacher_logits, mask) of random numbers, with at least one position counted."""
    rng = np.random.default_rng(seed)
    logits, teacher = rng.normal(size=(2, *shape)) * scale
    mask = rng.random(shape[:-1]) < keep
    mask.flat[0] = True
    return logits.astype(np.float32), teacher.astype(np.float32), mask


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("number", [0, 1, 2])
def test_equals_the_reference_vectors(shared, number, name):
    vectors = np.load(shared / "reference" / f"vectors_{number}.npz")
    arrays = [jnp.asarray(vectors[f"nlg_{key}"]) for key in ("logits", "teacher", "mask")]
    actual = jax.jit(jax.value_and_grad(CASES[name]))(*arrays)
    assert_same(actual, (vectors[f"nlg_{name}"], vectors[f"nlg_{name}_grad"]))


@pytest.mark.parametrize(
    ("shape", "seed"), [((11, 7), 0), ((2, 3, 5, 17), 1), ((40, 31), 2), ((4, 6, 200), 3)]
)
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.7])
def test_consistency_equals_float64(shape, seed, temperature):
    logits, teacher, mask = random_case(seed, shape)
    actual = jax.value_and_grad(nlg.consistency)(logits, teacher, mask, temperature=temperature)
    assert_same(actual, reference.consistency(logits, teacher, mask, temperature))


@pytest.mark.parametrize(("shape", "seed"), [((11, 7), 4), ((2, 3, 5, 17), 5), ((4, 6, 200), 6)])
@pytest.mark.parametrize("top_k", [None, 1, 2, 7, 17, 500])
def test_diversity_equals_float64(shape, seed, top_k):
    logits, _, mask = random_case(seed, shape)
    actual = jax.value_and_grad(nlg.diversity)(logits, mask, top_k=top_k)
    assert_same(actual, reference.diversity(logits, mask, top_k))


@pytest.mark.parametrize(
    ("shape", "seed"), [((11, 7), 7), ((2, 3, 5, 17), 8), ((40, 31), 9), ((4, 6, 200), 10)]
)
@pytest.mark.parametrize("norm", ["frobenius", "nuclear"])
@pytest.mark.parametrize("k", [1, 4, 100])
def test_svd_equals_float64(shape, seed, norm, k):
    logits, _, mask = random_case(seed, shape)
    actual = jax.value_and_grad(nlg.svd)(logits, mask, k=k, norm=norm)
    value, gradient = reference.svd(logits, mask, k, norm)
    if norm == "nuclear" and k == 100:
        # Every singular value leads: the term is the constant -1.
        np.testing.assert_allclose(actual[0], -1, rtol=1e-6)
        np.testing.assert_allclose(actual[1], 0, atol=1e-6)
    else:
        assert_same(actual, (value, gradient))


def test_teacher_gets_no_gradient():
    logits, teacher, mask = random_case(11, (5, 9))
    gradient = jax.grad(nlg.consistency, argnums=1)(logits, teacher, mask, temperature=2.0)
    np.testing.assert_array_equal(gradient, 0)


def test_student_equal_to_teacher_diverges_by_exactly_zero():
    logits, _, mask = random_case(12, (5, 9))
    value, gradient = jax.value_and_grad(nlg.consistency)(logits, logits, mask, temperature=2.0)
    assert value == 0
    np.testing.assert_allclose(gradient, 0, atol=1e-7)


@pytest.mark.parametrize("name", CASES)
def test_bfloat16_logits_are_computed_in_float32(name):
    logits, teacher, mask = random_case(13, (6, 8, 33))
    rounded = [jnp.asarray(z, jnp.bfloat16) for z in (logits, teacher)]
    value = CASES[name](*rounded, mask)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(
        value, CASES[name](*[z.astype(jnp.float32) for z in rounded], mask), rtol=1e-6
    )


DEGENERATE = {
    "zeros": np.zeros((6, 25)),
    "ties": np.repeat(np.arange(6.0)[:, None] // 2, 25, axis=1),
    "one token": np.arange(25.0)[None],
    "one class": np.arange(6.0)[:, None],
    "one number": np.ones((1, 1)),
    "rank 1": np.outer(np.arange(6.0), np.arange(25.0) - 12),
    "repeated singular values": np.eye(6, 25),
    "huge": np.random.default_rng(0).normal(size=(6, 25)) * 1e4,
    "tiny": np.random.default_rng(1).normal(size=(6, 25)) * 1e-6,
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kind", DEGENERATE)
def test_value_and_gradient_are_finite(kind, name):
    logits = jnp.asarray(DEGENERATE[kind], jnp.float32)
    mask = jnp.ones(len(logits), bool)
    value, gradient = jax.value_and_grad(CASES[name])(logits, logits[::-1] + 0.5, mask)
    assert jnp.isfinite(value) and jnp.isfinite(gradient).all()


@pytest.mark.parametrize("name", CASES)
def test_an_empty_mask_gives_zero_with_zero_gradient(name):
    logits, teacher, _ = random_case(14, (4, 30))
    value, gradient = jax.value_and_grad(CASES[name])(logits, teacher, np.zeros(4, bool))
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("name", CASES)
def test_masked_positions_do_not_count_even_if_not_finite(name):
    logits, teacher, mask = random_case(15, (9, 30))
    expected = jax.value_and_grad(CASES[name])(
        logits[mask], teacher[mask], np.ones(mask.sum(), bool)
    )
    logits[~mask] = np.nan
    teacher[~mask] = np.inf
    value, gradient = jax.value_and_grad(CASES[name])(logits, teacher, mask)
    np.testing.assert_allclose(value, expected[0], rtol=1e-6)
    np.testing.assert_allclose(gradient[mask], expected[1], rtol=1e-3, atol=1e-6)
    np.testing.assert_array_equal(gradient[~mask], 0)


@pytest.mark.parametrize("name", CASES)
def test_vmap_equals_a_loop(name):
    batches = [random_case(seed, (7, 25)) for seed in (16, 17, 18)]
    stacked = [jnp.stack(parts) for parts in zip(*batches, strict=True)]
    values, gradients = jax.jit(jax.vmap(jax.value_and_grad(CASES[name])))(*stacked)
    for index, batch in enumerate(batches):
        value, gradient = jax.value_and_grad(CASES[name])(*batch)
        np.testing.assert_allclose(values[index], value, rtol=1e-5)
        np.testing.assert_allclose(gradients[index], gradient, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_one_trace_for_each_shape(name):
    chex.clear_trace_counter()
    function = jax.jit(chex.assert_max_traces(CASES[name], n=1))
    for seed in (19, 20):
        function(*random_case(seed, (7, 25)))


def test_top_k_does_not_sort_the_vocabulary():
    def loss(z, m):
        return nlg.diversity(z, m, top_k=20)

    shapes = (
        jax.ShapeDtypeStruct((4, 8, 3000), jnp.float32),
        jax.ShapeDtypeStruct((4, 8), jnp.bool_),
    )
    for function in (loss, jax.value_and_grad(loss)):
        program = jax.jit(function).lower(*shapes).compile().as_text()
        assert " sort(" not in program and "TopK" in program


@pytest.mark.parametrize(
    "call",
    [
        lambda z, m: nlg.consistency(z, z[:, :-1], m, temperature=1.0),
        lambda z, m: nlg.diversity(z, m[:-1], top_k=None),
        lambda z, m: nlg.diversity(z, m[:, None], top_k=None),
        lambda z, m: nlg.svd(z[None], m, k=1),
    ],
)
def test_shapes_that_do_not_fit_are_refused(call):
    logits, _, mask = random_case(21, (4, 6))
    with pytest.raises(AssertionError):
        call(logits, mask)
