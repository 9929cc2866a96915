"""Singular values, norms and ratios with gradients that are finite everywhere."""

import chex
import jax
import jax.numpy as jnp


def tolerance(largest: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """Return the size below which a float32 matrix's singular value is rounding error.

    Args:
      largest: [], the largest singular value.
      shape: the matrix's shape.

    Returns:
      [], float32.
    """
    # Rounding the entries moves the spectrum by about eps * largest. The products that made the
    # matrix add a factor of sqrt(size).
    return jnp.finfo(jnp.float32).eps * max(shape) ** 0.5 * largest


@jax.custom_jvp
def singular_values(matrix: jax.Array) -> jax.Array:
    """All singular values of a matrix, in descending order.

    The derivative is ds_i = u_i^T dZ v_i, so d(s_1 + ... + s_k)/dZ = U_k V_k^T. It divides by no
    gap between singular values, so repeated values have finite gradients. Where s_i is zero to
    rounding the derivative is 0, the smallest subgradient.

    Args:
      matrix: [rows, columns], cast to float32.

    Returns:
      [min(rows, columns)], float32.
    """
    chex.assert_rank(matrix, 2)
    return jnp.linalg.svd(matrix.astype(jnp.float32), compute_uv=False)


@singular_values.defjvp
def _singular_values_jvp(primals, tangents):
    (matrix,) = primals
    (tangent,) = tangents
    left, values, right = jnp.linalg.svd(matrix.astype(jnp.float32), full_matrices=False)

    # ds_i = u_i^T dZ v_i
    turned = jnp.matmul(tangent.astype(jnp.float32), right.T, precision=jax.lax.Precision.HIGHEST)
    derivative = jnp.sum(left * turned, axis=0)

    is_nonzero = values > tolerance(values[0], matrix.shape)
    return values, jnp.where(is_nonzero, derivative, 0.0)


def ratio(part: jax.Array, whole: jax.Array) -> jax.Array:
    """Return part / whole, or 0 with zero gradient where whole is 0.

    Args:
      part: any shape, float32.
      whole: same shape, not negative, float32.

    Returns:
      Same shape, float32.
    """
    is_positive = whole > 0
    # The inner `where` keeps a division by zero out of the gradient.
    divisor = jnp.where(is_positive, whole, 1.0)
    return jnp.where(is_positive, part / divisor, 0.0)


def frobenius_norm(matrix: jax.Array) -> jax.Array:
    """Return the root of the sum of squares, with gradient 0 at 0.

    Args:
      matrix: any shape, cast to float32.

    Returns:
      [], float32.
    """
    squares = jnp.sum(jnp.square(matrix.astype(jnp.float32)))
    is_positive = squares > 0
    # The inner `where` keeps the infinite slope of the root at 0 out of the gradient.
    root = jnp.sqrt(jnp.where(is_positive, squares, 1.0))
    return jnp.where(is_positive, root, 0.0)
