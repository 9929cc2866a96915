"""Numerics the regularizers share: singular values whose gradient stays finite."""

import chex
import jax
import jax.numpy as jnp


def tolerance(largest: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """The size below which a singular value of a float32 matrix is rounding.

    Args:
      largest: [], the largest singular value.
      shape: the matrix's shape.

    Returns:
      [], float32.
    """
    # Rounded entries move the spectrum by about eps * largest; the products behind them, sqrt(size) more.
    return jnp.finfo(jnp.float32).eps * max(shape) ** 0.5 * largest


@jax.custom_jvp
def singular_values(matrix: jax.Array) -> jax.Array:
    """All singular values, largest first.

    ds_i = u_i^T dZ v_i, so d(s_1 + ... + s_k)/dZ = U_k V_k^T. It needs no division by gaps, so it is finite
    on repeated values; where s_i is zero (to rounding) the derivative is 0, the smallest subgradient.

    Args:
      matrix: [rows, columns], cast to float32.

    Returns:
      [min(rows, columns)], float32.
    """
    chex.assert_rank(matrix, 2)
    return jnp.linalg.svd(matrix.astype(jnp.float32), compute_uv=False)


@singular_values.defjvp
def _singular_values_jvp(primals, tangents):
    (matrix,), (change,) = primals, tangents
    left, values, right = jnp.linalg.svd(matrix.astype(jnp.float32), full_matrices=False)
    moved = jnp.sum(left * (change.astype(jnp.float32) @ right.T), axis=0)
    return values, jnp.where(values > tolerance(values[0], matrix.shape), moved, 0.0)


def ratio(part: jax.Array, whole: jax.Array) -> jax.Array:
    """part / whole, and 0 with zero gradient where whole is 0."""
    some = whole > 0
    return jnp.where(some, part / jnp.where(some, whole, 1.0), 0.0)


def frobenius_norm(matrix: jax.Array) -> jax.Array:
    """The root of the sum of squares, with gradient 0 at 0."""
    squares = jnp.sum(jnp.square(matrix.astype(jnp.float32)))
    some = squares > 0
    return jnp.where(some, jnp.sqrt(jnp.where(some, squares, 1.0)), 0.0)
