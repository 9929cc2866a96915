"""LoRA-GA's start against the SVD in float64, and its first step against full fine-tuning's."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from balora_jax import adapters
from balora_jax.adapters import AdapterSpec

SPECTRUM = 1.5 ** -np.arange(20)
RANK = 3


def matrix_of(spectrum, shape, seed=0):
    """A matrix with these singular values and random singular vectors."""
    rng = np.random.default_rng(seed)
    left, right = (np.linalg.qr(rng.normal(size=(side, len(spectrum))))[0] for side in shape)
    return (left * spectrum) @ right.T


def cosine(left, right):
    """The cosine of the angle between two matrices."""
    return np.sum(left * right) / np.linalg.norm(left) / np.linalg.norm(right)


@pytest.mark.parametrize("shape", [(32, 20), (20, 32)])
@pytest.mark.parametrize("niter", [None, 16])
@pytest.mark.parametrize("gamma", [16.0, 64.0])
def test_factors_are_the_leading_directions_of_the_gradient(shape, niter, gamma):
    """a has the first r left singular vectors, b the next r right ones, both of the stated size."""
    gradient = matrix_of(SPECTRUM, shape)
    a, b = adapters.gradient_factors(
        jnp.asarray(gradient, jnp.float32), RANK, gamma=gamma, niter=niter, key=jax.random.key(0)
    )
    u, _, vt = np.linalg.svd(gradient, full_matrices=False)
    square = shape[1] ** 0.5 / gamma
    first = u[:, :RANK]
    second = vt[RANK : 2 * RANK]
    # The sign of a singular vector is arbitrary, so the projections are compared.
    np.testing.assert_allclose(a @ a.T, square * first @ first.T, atol=1e-4 * square)
    np.testing.assert_allclose(b.T @ b, square * second.T @ second, atol=1e-4 * square)
    np.testing.assert_allclose(a.T @ a, square * np.eye(RANK), atol=1e-5 * square)


@pytest.mark.parametrize("rank", [8, 10, 20])
def test_with_fewer_than_2r_directions_every_direction_is_used(rank):
    gradient = matrix_of(SPECTRUM[:12], (12, 30))
    rank = min(rank, 12)
    a, b = adapters.gradient_factors(jnp.asarray(gradient, jnp.float32), rank)
    assert a.shape == (12, rank) and b.shape == (rank, 30)
    size = 30**0.5 / 16
    _, _, vt = np.linalg.svd(gradient, full_matrices=False)
    last = vt[12 - rank :]
    np.testing.assert_allclose(b.T @ b, size * last.T @ last, atol=1e-4 * size)


def test_bfloat16_gradients_give_float32_factors():
    a, b = adapters.gradient_factors(jnp.asarray(matrix_of(SPECTRUM, (32, 20)), jnp.bfloat16), 2)
    assert a.dtype == b.dtype == jnp.float32


@pytest.fixture
def problem():
    """Parameters with a stack of two layers, and a loss whose gradient has many directions."""
    keys = jax.random.split(jax.random.key(0), 5)
    params = {
        "layers": {"q_proj": {"kernel": jax.random.normal(keys[0], (2, 24, 20)) / 5}},
        "out": {"kernel": jax.random.normal(keys[1], (20, 28)) / 5, "bias": jnp.zeros(28)},
    }
    inputs = jax.random.normal(keys[2], (64, 24)) * jnp.linspace(0.2, 2, 24)
    targets = jax.random.normal(keys[3], (64, 28))

    def loss(params):
        first, second = params["layers"]["q_proj"]["kernel"]
        hidden = jnp.tanh(inputs @ first) + inputs @ second
        out = hidden @ params["out"]["kernel"] + params["out"]["bias"]
        return jnp.mean((out - targets) ** 2)

    return params, adapters.match_targets("all-linear", params), loss


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit])
def test_kernel_gradients_are_those_of_the_loss(problem, wrap):
    params, paths, loss = problem
    whole = jax.grad(loss)(params)
    gradients = wrap(lambda p: adapters.kernel_gradients(loss, p, paths))(params)
    assert set(gradients) == {("layers", "q_proj"), ("out",)}
    for ours, theirs in (
        (gradients[("layers", "q_proj")], whole["layers"]["q_proj"]["kernel"]),
        (gradients[("out",)], whole["out"]["kernel"]),
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)
    only = adapters.kernel_gradients(loss, params, [("out",)])
    assert set(only) == {("out",)}


def step(loss, params, start, spec, rate):
    """The change of every kernel after one step of gradient descent on the adapters, in float64."""

    def adapted_loss(trained):
        lora = adapters.student_lora(trained, start, spec)
        return loss(adapters.merge(params, lora))

    slope = jax.grad(adapted_loss)(start)
    changes = {}
    for name, layer, layer_gradient in (
        ("q_proj", start["layers"]["q_proj"], slope["layers"]["q_proj"]),
        ("out", start["out"], slope["out"]),
    ):
        a = np.asarray(layer["a"], np.float64)
        b = np.asarray(layer["b"], np.float64)
        new_a = a - rate * np.asarray(layer_gradient["a"], np.float64)
        new_b = b - rate * np.asarray(layer_gradient["b"], np.float64)
        changes[name] = spec.scale * (new_a @ new_b - a @ b)
    return changes


def test_first_step_is_the_full_step_cut_to_rank_2r(problem):
    """Wang et al., theorem 3.1: no adapter of rank r moves closer to full fine-tuning's step."""
    params, paths, loss = problem
    spec = AdapterSpec(RANK, alpha=6.0)
    gradient = adapters.kernel_gradients(loss, params, paths)
    start = adapters.init_lora_ga(
        params, paths, RANK, gradient=gradient, scale=spec.scale, key=jax.random.key(0)
    )
    lora = adapters.init_lora(params, paths, RANK, jax.random.key(0))
    rate = 1e-3
    ours = step(loss, params, start, spec, rate)
    theirs = step(loss, params, lora, spec, rate)

    def check(change, other, slope):
        slope = np.asarray(slope, np.float64)
        u, s, vt = np.linalg.svd(slope, full_matrices=False)
        best = (u[:, : 2 * RANK] * s[: 2 * RANK]) @ vt[: 2 * RANK]
        expected = -rate * spec.scale**2 * (slope.shape[1] ** 0.5 / 16) * best
        assert np.linalg.norm(change - expected) < 5e-3 * np.linalg.norm(expected)
        assert cosine(change, -slope) > cosine(other, -slope) + 0.1

    check(ours["out"], theirs["out"], gradient[("out",)])
    for layer in range(2):
        slope = gradient[("layers", "q_proj")][layer]
        check(ours["q_proj"][layer], theirs["q_proj"][layer], slope)


@pytest.mark.parametrize("form", ["delta", "residual"])
def test_step_zero_is_the_base(problem, form):
    params, paths, loss = problem
    spec = AdapterSpec(RANK, alpha=6.0, form=form)
    gradient = adapters.kernel_gradients(loss, params, paths)
    start = adapters.init_lora_ga(params, paths, RANK, gradient=gradient, key=jax.random.key(0))
    base = adapters.residual(params, start, spec) if form == "residual" else params
    merged = adapters.merge(base, adapters.student_lora(start, start, spec))
    chex.assert_trees_all_close(merged, params, atol=0 if form == "delta" else 1e-5)
