"""Singular values and their derivative against float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from balora_jax.linalg.singular_values import frobenius_norm, ratio, singular_values


@pytest.mark.parametrize("shape", [(7, 30), (30, 7), (9, 9), (1, 5)])
def test_forward_and_reverse_derivatives(shape):
    rng = np.random.default_rng(0)
    matrix, change = rng.normal(size=(2, *shape))
    weights = rng.normal(size=min(shape))
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    values, tangent = jax.jvp(singular_values, (jnp.asarray(matrix),), (jnp.asarray(change),))
    np.testing.assert_allclose(values, s, rtol=1e-5)
    np.testing.assert_allclose(
        tangent, np.einsum("ri,rc,ic->i", u, change, vt), rtol=1e-3, atol=1e-4
    )
    gradient = jax.grad(lambda z: singular_values(z) @ jnp.asarray(weights, jnp.float32))(matrix)
    np.testing.assert_allclose(gradient, (u * weights) @ vt, rtol=1e-3, atol=1e-4)


def test_zero_singular_values_get_no_gradient():
    left, right = np.linalg.qr(np.random.default_rng(1).normal(size=(20, 20)))[0][:2]
    matrix = jnp.asarray(np.outer(left, right), jnp.float32)
    gradient = jax.grad(lambda z: singular_values(z).sum())(matrix)
    np.testing.assert_allclose(gradient, matrix, atol=1e-5)


def test_empty_ratio_and_norm_have_zero_gradients():
    assert jax.value_and_grad(frobenius_norm)(jnp.zeros((3, 4)))[0] == 0
    np.testing.assert_array_equal(jax.grad(frobenius_norm)(jnp.zeros((3, 4))), 0)
    assert jax.value_and_grad(ratio, argnums=(0, 1))(0.0, 0.0) == (0.0, (0.0, 0.0))
    np.testing.assert_allclose(jax.grad(ratio, argnums=(0, 1))(1.0, 2.0), (0.5, -0.25))
