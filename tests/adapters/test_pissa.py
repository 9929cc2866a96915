"""PiSSA's start against the SVD in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from balora_jax import adapters


def _kernel(spectrum, shape=(40, 24), seed=0):
    """A matrix with these singular values and random singular vectors."""
    left, right = (
        np.linalg.qr(np.random.default_rng(seed + i).normal(size=(n, len(spectrum))))[0]
        for i, n in enumerate(shape)
    )
    return (left * spectrum) @ right.T


DECAYING = 2.0 ** -np.arange(24)
FLAT = np.linspace(1, 0.7, 24)
# The values after the sixth are lost in a Gram matrix in float32.
STEEP = 4.0 ** -np.arange(24)


@pytest.mark.parametrize("spectrum", [DECAYING, FLAT, STEEP], ids=["decaying", "flat", "steep"])
@pytest.mark.parametrize("niter", [None, 16])
def test_factors_are_the_best_approximation(spectrum, niter):
    """The rank-r part's error and the even split of singular values, against the float64 SVD."""
    kernel = _kernel(spectrum)
    rank = 6
    a, b = adapters.principal_factors(
        jnp.asarray(kernel, jnp.float32), rank, niter=niter, key=jax.random.key(0)
    )
    best = np.sqrt(np.sum(spectrum[rank:] ** 2))
    error = np.linalg.norm(kernel - np.asarray(a, np.float64) @ np.asarray(b, np.float64))
    assert error <= best * (1 + 1e-4 if niter is None else 1.02) + 1e-6
    np.testing.assert_allclose(
        np.diag(a.T @ a), spectrum[:rank], rtol=1e-3 if niter is None else 0.05
    )
    np.testing.assert_allclose(np.diag(b @ b.T), np.diag(a.T @ a), rtol=1e-4)


def test_more_iterations_reduce_the_error():
    kernel = jnp.asarray(_kernel(np.linspace(1, 0.3, 24)), jnp.float32)
    errors = []
    for niter in (0, 2, 16):
        a, b = adapters.principal_factors(kernel, 3, niter=niter, key=jax.random.key(1))
        errors.append(float(jnp.linalg.norm(kernel - a @ b)))
    assert errors[0] > errors[1] > errors[2]


@pytest.mark.parametrize("niter", [None, 8])
@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_init_covers_stacks_and_single_kernels(niter, scale):
    kernels = np.stack([_kernel(DECAYING, seed=s) for s in range(3)])
    params = {
        "layers": {"q_proj": {"kernel": jnp.asarray(kernels, jnp.float32)}},
        "o": {"kernel": jnp.asarray(kernels[0])},
    }
    paths = adapters.match_targets("all-linear", params)
    start = adapters.init_pissa(params, paths, 5, scale=scale, niter=niter, key=jax.random.key(0))
    stacked = start["layers"]["q_proj"]
    assert stacked["a"].shape == (3, 40, 5) and stacked["b"].shape == (3, 5, 24)
    for layer in range(3):
        u, s, vt = np.linalg.svd(kernels[layer])
        product = scale * np.asarray(stacked["a"][layer] @ stacked["b"][layer])
        np.testing.assert_allclose(product, (u[:, :5] * s[:5]) @ vt[:5], atol=1e-4)
    np.testing.assert_allclose(
        start["o"]["a"] @ start["o"]["b"], stacked["a"][0] @ stacked["b"][0], atol=1e-4
    )


def test_bfloat16_kernels_give_float32_factors():
    a, b = adapters.principal_factors(jnp.asarray(_kernel(DECAYING), jnp.bfloat16), 2)
    assert a.dtype == b.dtype == jnp.float32
