"""Leading singular values and their gradient against float64, on spectra of many shapes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from balora_jax.linalg import leading
from balora_jax.linalg.leading import DEGREE, ROUNDS, checked_sum, leading_sum, leading_triplets

K = 10
# One function, so that equal shapes are compiled once.
VALUE_AND_GRADIENT = jax.jit(jax.value_and_grad(leading_sum), static_argnums=(1, 2))
DECAYING = {
    "1/i": lambda i: 1 / (i + 1),
    "1/i^2": lambda i: 1 / (i + 1) ** 2,
    "exp(-i/20)": lambda i: np.exp(-i / 20),
    "exp(-i)": lambda i: np.exp(-i),
    "one far above": lambda i: np.where(i == 0, 100, 3 / np.sqrt(i + 1)),
}
FLAT = {
    "nearly flat": lambda i: 1 - i / i.max() / 2,
    "flat but for a step after k": lambda i: np.where(i < K, 1.0, 0.98),
}
DEFICIENT = {
    "rank 5": lambda i: np.where(i < 5, 1 / (i + 1), 0.0),
    "rank 40": lambda i: np.where(i < 40, 1 / (i + 1), 0.0),
    "rank 1": lambda i: np.where(i < 1, 1.0, 0.0),
}
SPECTRA = DECAYING | FLAT | DEFICIENT


def matrix_of(spectrum, shape, seed=0):
    """A float32 matrix whose i-th singular value is spectrum(i)."""
    rng = np.random.default_rng(seed)
    size = min(shape)
    left, right = (np.linalg.qr(rng.normal(size=(side, size)))[0] for side in shape)
    return ((left * spectrum(np.arange(size, dtype=float))) @ right.T).astype(np.float32)


def truth(matrix, k):
    """(sum of the k leading singular values, its gradient) in float64."""
    left, values, right = np.linalg.svd(matrix.astype(np.float64), full_matrices=False)
    real = values[:k] > 1e-6 * values[0]
    return values[:k].sum(), (left[:, :k] * real) @ right[:k]


def assert_accurate(matrix, k, method="subspace"):
    actual = VALUE_AND_GRADIENT(matrix, k, method)
    value, gradient = truth(matrix, k)
    np.testing.assert_allclose(actual[0], value, rtol=1e-4)
    assert np.linalg.norm(actual[1] - gradient) <= 1e-3 * np.linalg.norm(gradient)


@pytest.mark.parametrize("shape", [(300, 96), (96, 300), (200, 200), (24, 40)])
@pytest.mark.parametrize("name", SPECTRA)
def test_value_and_gradient_equal_float64(name, shape):
    assert_accurate(matrix_of(SPECTRA[name], shape), K)


@pytest.mark.parametrize("shape", [(300, 96), (96, 300), (400, 256)])
def test_a_random_matrix_with_a_flat_spectrum(shape):
    assert_accurate(np.random.default_rng(1).normal(size=shape).astype(np.float32), K)


@pytest.mark.parametrize("shape", [(1024, 512), (512, 1024), (300, 96)])
@pytest.mark.parametrize("common", [[0.3], [1.0], [10.0], [10.0, 1.0, 0.3]], ids=str)
def test_a_few_directions_far_above_a_flat_rest(shape, common):
    """As the logits of one text are: nearly all rows share a direction, and differ by noise."""
    random = np.random.default_rng(4)
    matrix = random.normal(size=shape)
    for size in common:
        sides = random.normal(size=shape[0]), random.normal(size=shape[1])
        matrix += size * np.outer(1 + 0.1 * sides[0], sides[1])
    matrix = matrix.astype(np.float32)
    values = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)
    assert values[0] > 2 * values[K - 1]
    value, gradient = VALUE_AND_GRADIENT(matrix, K, "subspace")
    true_value, true_gradient = truth(matrix, K)
    np.testing.assert_allclose(value, true_value, rtol=1e-6)
    error = np.linalg.norm(gradient - true_gradient) / np.linalg.norm(true_gradient)
    # One rounding of the largest value turns vectors whose values are this near to each other.
    rounding = np.finfo(np.float32).eps * values[0] / (values[K - 1] - values[K])
    assert error < 1e-4 + 0.1 * rounding


@pytest.mark.parametrize("shape", [(1024, 512), (300, 600), (2000, 64)])
@pytest.mark.parametrize("common", [0.0, 0.3, 1.0, 3.0, 10.0, 30.0])
def test_the_rounds_end_because_they_have_converged(shape, common, monkeypatch):
    """With two rounds less the result has the same bits, so that the bound on them did not act."""
    random = np.random.default_rng(round(10 * common) + shape[0])
    matrix = random.normal(size=shape) + common * random.normal(size=shape[1])
    matrix = jnp.asarray(matrix, jnp.float32)
    results = []
    for rounds in (ROUNDS, ROUNDS - 2):
        monkeypatch.setattr(leading, "ROUNDS", rounds)
        results.append(jax.jit(lambda x: leading_triplets(x, K))(matrix))
    jax.tree.map(np.testing.assert_array_equal, *results)


@pytest.mark.parametrize("shape", [(300, 200), (200, 300)])
def test_rounds_that_end_too_early_say_so(shape, monkeypatch):
    flat = jnp.asarray(np.random.default_rng(4).normal(size=shape), jnp.float32)
    for rounds, unsettled in ((ROUNDS, 0), (0, 1)):
        monkeypatch.setattr(leading, "ROUNDS", rounds)
        value_and_slope = jax.jit(jax.value_and_grad(lambda x: checked_sum(x, K), has_aux=True))
        (value, found), slope = value_and_slope(flat)
        assert found == unsettled
        true_value, true_slope = truth(np.asarray(flat), K)
        off = np.linalg.norm(slope - true_slope) / np.linalg.norm(true_slope)
        assert (off > 1e-3) == (unsettled == 1)
        assert value <= true_value * (1 + 1e-6)
    for method in ("exact", "randomized"):
        assert checked_sum(flat, K, method)[1] == 0


def test_exact_is_exact_and_randomized_is_not_on_a_flat_spectrum():
    flat = np.random.default_rng(2).normal(size=(400, 256)).astype(np.float32)
    assert_accurate(flat, K, "exact")
    value, gradient = VALUE_AND_GRADIENT(flat, K, "randomized")
    true_value, true_gradient = truth(flat, K)
    assert 0.01 < 1 - value / true_value < 0.2
    assert np.linalg.norm(gradient - true_gradient) > 0.3 * np.linalg.norm(true_gradient)
    steep = matrix_of(lambda i: np.exp(-i / 2), (400, 256))
    assert_accurate(steep, K, "randomized")


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (3, 50)])
def test_matrices_with_fewer_than_k_singular_values(shape):
    matrix = np.random.default_rng(3).normal(size=shape).astype(np.float32)
    assert_accurate(matrix, K)
    left, values, right, _ = leading_triplets(matrix, K)
    assert left.shape == (shape[0], min(shape)) and right.shape == (shape[1], min(shape))
    np.testing.assert_allclose((left * values) @ right.T, matrix, atol=1e-5)


@pytest.mark.parametrize("method", ["subspace", "exact", "randomized"])
@pytest.mark.parametrize(
    "matrix",
    [
        np.zeros((40, 60)),
        np.eye(40, 60),
        np.ones((40, 60)),
        np.full((40, 60), 1e4),
        np.full((40, 60), 1e-12),
    ],
)
def test_degenerate_spectra_have_finite_gradients(matrix, method):
    value, gradient = VALUE_AND_GRADIENT(jnp.asarray(matrix, jnp.float32), K, method)
    np.testing.assert_allclose(value, np.linalg.svd(matrix, compute_uv=False)[:K].sum(), rtol=1e-4)
    assert jnp.isfinite(gradient).all()
    if not matrix.any():
        np.testing.assert_array_equal(gradient, 0)


def test_gradient_at_equal_values_has_k_unit_singular_values():
    _, gradient = VALUE_AND_GRADIENT(jnp.eye(40, 60), K, "subspace")
    values = np.linalg.svd(gradient, compute_uv=False)
    np.testing.assert_allclose(values[:K], 1, atol=1e-4)
    np.testing.assert_allclose(values[K:], 0, atol=1e-4)


def test_vmap_equals_a_loop():
    matrices = np.stack(
        [matrix_of(SPECTRA[name], (96, 300)) for name in ("1/i", "nearly flat", "rank 5")]
    )
    values, gradients = jax.jit(jax.vmap(jax.value_and_grad(lambda z: leading_sum(z, K))))(matrices)
    for index, matrix in enumerate(matrices):
        value, gradient = VALUE_AND_GRADIENT(matrix, K, "subspace")
        np.testing.assert_allclose(values[index], value, rtol=1e-5)
        assert np.linalg.norm(gradients[index] - gradient) <= 1e-3 * np.linalg.norm(gradient)


def flops(jaxpr, loops=(ROUNDS, DEGREE)):
    """Count FLOPs: 2 per multiply-add, 40 m n^2 per decomposition, every loop run to its limit."""
    total = 0
    for equation in jaxpr.eqns:
        shapes = [
            variable.aval.shape for variable in equation.invars if hasattr(variable.aval, "shape")
        ]
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            total += (
                2
                * np.prod(equation.outvars[0].aval.shape)
                * np.prod([shapes[0][axis] for axis in contracted])
            )
        elif equation.primitive.name in ("svd", "eigh", "qr", "geqrf", "householder_product"):
            total += 40 * max(shapes[0]) * min(shapes[0]) ** 2
        times, inner = (loops[0], loops[1:]) if equation.primitive.name == "while" else (1, loops)
        total += times * sum(
            flops(part, inner) for part in jax.core.jaxprs_in_params(equation.params)
        )
    return total


def test_worst_case_costs_a_small_part_of_a_7b_step():
    tokens = 2048
    width = 4096

    def term(hidden, factor):
        return leading_sum(hidden @ factor.T, K)

    shapes = [
        jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((tokens, width), (width, width))
    ]
    worst = flops(jax.make_jaxpr(jax.value_and_grad(term))(*shapes).jaxpr)
    assert 1e11 < worst < 0.03 * 6 * 6.7e9 * tokens
