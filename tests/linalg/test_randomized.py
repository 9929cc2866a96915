"""The randomized SVD against the full SVD in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from balora_jax.linalg.randomized import orthonormal, randomized_svd


def matrix_of(values, shape):
    """A float32 matrix with these singular values and random singular vectors."""
    rng = np.random.default_rng(0)
    left, right = (np.linalg.qr(rng.normal(size=(side, len(values))))[0] for side in shape)
    return ((left * values) @ right.T).astype(np.float32)


@pytest.mark.parametrize("shape", [(40, 24), (24, 40), (30, 30)])
@pytest.mark.parametrize("niter", [0, 1, 2, 16])
def test_leading_triplets_of_a_decaying_spectrum(shape, niter):
    matrix = matrix_of(4.0 ** -np.arange(24), shape)
    u, s, vt = randomized_svd(matrix, 4, niter=niter, key=jax.random.key(0), oversampling=8)
    assert u.shape == (shape[0], 12) and s.shape == (12,) and vt.shape == (12, shape[1])
    np.testing.assert_allclose(s[:4], 4.0 ** -np.arange(4), rtol=1e-4)
    left, values, right = np.linalg.svd(matrix.astype(np.float64))
    best = (left[:, :4] * values[:4]) @ right[:4]
    np.testing.assert_allclose((u[:, :4] * s[:4]) @ vt[:4], best, atol=1e-4)


def test_the_block_is_no_wider_than_the_matrix():
    matrix = matrix_of(np.ones(3), (3, 50))
    u, s, vt = randomized_svd(matrix, 2, niter=2, key=jax.random.key(0), oversampling=8)
    assert u.shape == (3, 3) and s.shape == (3,) and vt.shape == (3, 50)


def test_orthonormal_spans_the_block():
    block = jax.random.normal(jax.random.key(0), (9, 4))
    basis = orthonormal(block)
    np.testing.assert_allclose(basis.T @ basis, jnp.eye(4), atol=1e-5)
    np.testing.assert_allclose(basis @ (basis.T @ block), block, atol=1e-5)
