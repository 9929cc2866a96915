"""The operations of traced functions against what the shapes say."""

import jax
import jax.numpy as jnp
import pytest

from balora_jax.training.operations import operations

X = jnp.ones((8, 16))
W = jnp.ones((5, 16, 16))
ONE = 2 * 8 * 16 * 16


def product(x, w):
    return jnp.tanh(x @ w)


def scanned(x, w):
    return jax.lax.scan(lambda y, layer: (product(y, layer), None), x, w)[0]


CASES = {
    "one product": (lambda x, w: x @ w[0], ONE),
    "products in batches": (lambda x, w: jnp.einsum("ij,ljk->lik", x, w), 5 * ONE),
    "a loop": (scanned, 5 * ONE),
    "a program in a program": (jax.jit(lambda x, w: scanned(x, w) @ w[0]), 6 * ONE),
    "branches": (
        lambda x, w: jax.lax.cond(x[0, 0] > 0, lambda: x @ w[0], lambda: scanned(x, w)),
        5 * ONE,
    ),
    "a gradient": (jax.grad(lambda x, w: scanned(x, w).sum(), argnums=(0, 1)), 15 * ONE),
    "recomputed": (
        jax.grad(
            lambda x, w: jax.lax.scan(
                jax.checkpoint(lambda y, layer: (product(y, layer), None)), x, w
            )[0].sum(),
            argnums=(0, 1),
        ),
        20 * ONE,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_operations(name):
    function, expected = CASES[name]
    traced = jax.jit(function).trace(X, W)
    assert operations(traced.jaxpr) == expected
