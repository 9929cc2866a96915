"""Orthonormal bases and the randomized SVD."""

import jax
import jax.numpy as jnp


def orthonormal(block: jax.Array) -> jax.Array:
    """Return an orthonormal basis of the span of a block's columns: the Q of its QR decomposition.

    Args:
      block: [m, n] with n <= m, float32.

    Returns:
      [m, n], float32.
    """
    basis, _ = jnp.linalg.qr(block)
    return basis


def randomized_svd(
    matrix: jax.Array, rank: int, *, niter: int, key: jax.Array, oversampling: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Approximate the leading singular triplets by subspace iteration from a random block.

    Halko et al. (SIAM Review, 2011), algorithms 4.4 and 5.1. The more the spectrum decays, the
    more accurate the result. Products run at the highest precision.

    Args:
      matrix: [rows, columns], float32.
      rank: number of triplets wanted.
      niter: number of subspace iterations; each is a product with matrix matrix^T.
      key: random key of the initial block.
      oversampling: columns that the block carries beyond `rank`. They cost little and make the
        last wanted directions converge.

    Returns:
      u [rows, width], s [width] in descending order and vt [width, columns], where width is
      rank + oversampling or the smaller side of the matrix. Only the first `rank` are accurate.
    """
    rows, columns = matrix.shape
    if rows > columns:
        u, s, vt = randomized_svd(matrix.T, rank, niter=niter, key=key, oversampling=oversampling)
        return vt.T, s, u.T
    width = min(rank + oversampling, rows)
    with jax.default_matmul_precision("highest"):
        basis = _range_basis(matrix, width, niter, key)
        u, s, vt = jnp.linalg.svd(basis.T @ matrix, full_matrices=False)
        return basis @ u, s, vt


def _range_basis(matrix: jax.Array, width: int, niter: int, key: jax.Array) -> jax.Array:
    """An orthonormal basis [rows, width] of the leading left singular directions."""
    rows, columns = matrix.shape
    basis = orthonormal(matrix @ jax.random.normal(key, (columns, width)))

    # Each iteration multiplies by matrix matrix^T. From a few iterations on it is cheaper to form
    # that Gram matrix once: products of large matrices run at about twice the speed of products
    # with a narrow block.
    if niter > 1 and 4 * niter * width > rows:
        gram = matrix @ matrix.T
        basis = jax.lax.fori_loop(0, niter - 1, lambda _, basis: orthonormal(gram @ basis), basis)
        # The last iteration uses the matrix itself: in a float32 Gram matrix, singular values
        # below 3e-4 of the largest are lost.
        niter = 1

    def iterate(_, basis: jax.Array) -> jax.Array:
        return orthonormal(matrix @ orthonormal(matrix.T @ basis))

    return jax.lax.fori_loop(0, niter, iterate, basis)
