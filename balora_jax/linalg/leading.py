"""The largest singular values of a matrix and their vectors, computed by matrix products.

The subspace method repeats two operations on a block of vectors: a Chebyshev polynomial of the
Gram matrix damps the unwanted directions (the filter), and Rayleigh-Ritz rotates the block so that
its first k vectors become singular vectors. It works first on the Gram matrix, where products are
cheap, and then on the matrix itself, because in float32 the Gram matrix loses singular values below
about 3e-4 of the largest.
"""

import functools
from collections.abc import Callable
from typing import Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from balora_jax.linalg.precise import product
from balora_jax.linalg.randomized import orthonormal, randomized_svd
from balora_jax.linalg.singular_values import tolerance
from balora_jax.linalg.tall import tall_svd

Method = Literal["subspace", "exact", "randomized"]

EPS = float(jnp.finfo(jnp.float32).eps)
TINY = 1e-37
# Vectors carried beside the k wanted ones. More of them widen the gap to the unwanted directions.
EXTRA = 22
# The iteration ends when every wanted vector is within this angle of the block. The gradient's
# error is of the same size.
ANGLE = 1e-4
# Rounding keeps residuals above a few eps of the largest value, so no tighter bound can be met.
FLOOR = 5 * EPS
ROUNDS = 12
# The largest factor by which a filter may amplify the largest value over the smallest wanted one.
# Beyond it, float32 loses the smaller ones.
GROWTH = 2e3
DEGREE = 20
# Vectors within this angle of theirs are taken out of the filter.
FIXED = 0.1 * ANGLE


class Triplets(NamedTuple):
    """The largest singular values of a matrix [rows, columns] and their vectors, float32.

    Attributes:
      left: [rows, k].
      values: [k], in descending order.
      right: [columns, k].
      unsettled: [], 1 if the rounds ended at their bound before all vectors had converged, else 0.
    """

    left: jax.Array
    values: jax.Array
    right: jax.Array
    unsettled: jax.Array


class _Block(NamedTuple):
    """Approximate singular vectors of an [m, n] matrix, b of them, largest first.

    Attributes:
      left: [m, b] left vectors; None where only the Gram matrix was used.
      right: [n, b] right vectors.
      squares: [b] squared singular values.
      image: [n, b], the Gram matrix times `right`.
      levels: [b], the scale that residuals are compared with: squared values on the Gram matrix,
        values on the matrix itself.
      residual: [b], the error of each vector as an eigenvector or singular vector.
    """

    left: jax.Array | None
    right: jax.Array
    squares: jax.Array
    image: jax.Array
    levels: jax.Array
    residual: jax.Array


def _ritz_on_gram(gram_times: Callable[[jax.Array], jax.Array], basis: jax.Array) -> _Block:
    """Rotate an orthonormal basis [n, b] into approximate eigenvectors of the Gram matrix."""
    image = gram_times(basis)
    eigenvalues, rotation = jnp.linalg.eigh(product(basis.T, image))

    # eigh sorts in ascending order.
    squares = jnp.maximum(eigenvalues[::-1], 0.0)
    rotation = rotation[:, ::-1]

    right = product(basis, rotation)
    image = product(image, rotation)
    residual = jnp.linalg.norm(image - right * squares, axis=0)
    return _Block(
        left=None, right=right, squares=squares, image=image, levels=squares, residual=residual
    )


def _ritz_on_matrix(matrix: jax.Array, sharding: NamedSharding | None, basis: jax.Array) -> _Block:
    """Rotate an orthonormal basis [n, b] into right singular vectors of matrix [m, n]."""
    left, values, rotation = tall_svd(product(matrix, basis), sharding)
    right = product(basis, rotation.T)
    back = product(matrix.T, left)
    residual = jnp.linalg.norm(back - right * values, axis=0)
    return _Block(
        left=left,
        right=right,
        squares=values**2,
        image=back * values,
        levels=values,
        residual=residual,
    )


def _unsettled(block: _Block, k: int) -> jax.Array:
    """Return True if one of the first k vectors is not within ANGLE of the block."""
    gap = block.levels[:k] - block.levels[-1]
    return jnp.any(block.residual[:k] > ANGLE * gap + FLOOR * block.levels[0])


def _filtered(
    block: _Block, gram_times: Callable[[jax.Array], jax.Array], number: jax.Array
) -> jax.Array:
    """Damp the directions outside the block by a Chebyshev polynomial of the Gram matrix.

    Leading vectors that have converged stay as they are, and the Gram matrix is deflated by them:
    one value far above a flat rest would else allow no filter of a higher degree.

    Args:
      block: the current vectors.
      gram_times: the product of the Gram matrix with a block [n, b].
      number: number of the round; round 0 only applies the Gram matrix.

    Returns:
      [n, b], not orthonormal.
    """
    gap = block.levels - block.levels[-1]
    fixed = jnp.cumprod(block.residual < FIXED * gap) > 0
    fixed_vectors = jnp.where(fixed, block.right, 0.0)

    def deflated(image: jax.Array) -> jax.Array:
        return image - product(fixed_vectors, product(fixed_vectors.T, image))

    # The polynomial is bounded by 1 on [0, 2 half] and grows beyond it.
    half = jnp.maximum(block.squares[-1] / 2, EPS**2 * block.squares[0] + TINY)

    # The highest degree that keeps the growth of the largest value within GROWTH.
    largest = jnp.max(jnp.where(fixed, 0.0, block.squares))
    growth = jnp.arccosh(jnp.maximum(largest / half - 1, 1 + EPS))
    allowed = jnp.clip(jnp.log(GROWTH) / growth, 1, DEGREE).astype(jnp.int32)
    degree = jnp.where(number == 0, 1, allowed)

    # T_{i+1}(x) = 2 x T_i(x) - T_{i-1}(x), with x = gram / half - 1
    def step(_, last_two):
        before, now = last_two
        return now, 2 * (deflated(gram_times(now)) / half - now) - before

    first = (block.right, deflated(block.image) / half - block.right)
    _, filtered = jax.lax.fori_loop(1, degree, step, first)

    # On a steep spectrum one product is filter enough. Dividing by the squared values keeps the
    # small columns from vanishing beside the large ones.
    rescaled = block.image / jnp.maximum(block.squares, TINY)
    return jnp.where(fixed, block.right, jnp.where(degree > 1, filtered, rescaled))


def _refine(
    ritz: Callable[[jax.Array], _Block],
    gram_times: Callable[[jax.Array], jax.Array],
    basis: jax.Array,
    k: int,
) -> _Block:
    """Alternate filter and rotation until the first k vectors are within ANGLE of the block.

    Args:
      ritz: one of the rotations above, with its matrix.
      gram_times: the product of the Gram matrix with a block [n, b].
      basis: [n, b], the first block.
      k: number of vectors that must converge.
    """

    def goes_on(state):
        number, block = state
        return (number == 0) | (number <= ROUNDS) & _unsettled(block, k)

    def next_round(state):
        number, block = state
        return number + 1, ritz(orthonormal(_filtered(block, gram_times, number)))

    # No values or residuals are known for the first basis, so round 0 only sorts it.
    shapes = jax.eval_shape(ritz, basis)
    placeholder = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), shapes)
    placeholder = placeholder._replace(image=basis)
    _, block = jax.lax.while_loop(goes_on, next_round, (0, placeholder))
    return block


def _tall_subspace(matrix: jax.Array, k: int, sharding: NamedSharding | None) -> Triplets:
    """The k leading triplets of a matrix with at least as many rows as columns."""
    columns = matrix.shape[1]
    gram = _by_rows(product(matrix.T, matrix), sharding)
    # Any first block will do: the result depends on it by no more than ANGLE.
    first = jax.random.normal(jax.random.key(0), (columns, min(k + EXTRA, columns)))

    def gram_times(block: jax.Array) -> jax.Array:
        return _whole(_by_rows(product(gram, block), sharding), sharding)

    def twice_times(block: jax.Array) -> jax.Array:
        return product(matrix.T, product(matrix, block))

    on_gram = functools.partial(_ritz_on_gram, gram_times)
    on_matrix = functools.partial(_ritz_on_matrix, matrix, sharding)
    rough = _refine(on_gram, gram_times, gram_times(first), k)
    fine = _refine(on_matrix, twice_times, rough.right, k)
    unsettled = _unsettled(fine, k).astype(jnp.float32)
    return Triplets(fine.left[:, :k], fine.levels[:k], fine.right[:, :k], unsettled)


def _by_rows(array: jax.Array, sharding: NamedSharding | None) -> jax.Array:
    """Divide a matrix over the devices, where there are several."""
    return array if sharding is None else jax.lax.with_sharding_constraint(array, sharding)


def _whole(block: jax.Array, sharding: NamedSharding | None) -> jax.Array:
    """Gather a block of a few columns, whose decomposition would send each row by itself."""
    if sharding is None:
        return block
    everywhere = NamedSharding(sharding.mesh, P(None, None))
    return jax.lax.with_sharding_constraint(block, everywhere)


def _subspace(matrix: jax.Array, k: int, sharding: NamedSharding | None) -> Triplets:
    rows, columns = matrix.shape
    if rows >= columns:
        return _tall_subspace(matrix, k, sharding)
    found = _tall_subspace(matrix.T, k, None)
    return found._replace(left=found.right, right=found.left)


def _randomized(matrix: jax.Array, k: int, _: NamedSharding | None) -> Triplets:
    left, values, right = randomized_svd(matrix, k, niter=2, key=jax.random.key(0), oversampling=5)
    return Triplets(left[:, :k], values[:k], right[:k].T, jnp.float32(0))


def _exact(matrix: jax.Array, k: int, _: NamedSharding | None) -> Triplets:
    left, values, right = jnp.linalg.svd(matrix, full_matrices=False)
    return Triplets(left[:, :k], values[:k], right[:k].T, jnp.float32(0))


_METHODS = {"subspace": _subspace, "exact": _exact, "randomized": _randomized}


def leading_triplets(
    matrix: jax.Array,
    k: int,
    method: Method = "subspace",
    sharding: NamedSharding | None = None,
) -> Triplets:
    """The k largest singular values of a matrix, with their vectors.

    Args:
      matrix: [rows, columns], cast to float32.
      k: number of singular values; all of them if the matrix has fewer.
      method: subspace (block iteration with Chebyshev filters, gradient error near 1e-4 on flat
        spectra too), exact (full SVD), or randomized (the official code's
        svd_lowrank(q = k + 5, niter = 2), accurate on decaying spectra only).
      sharding: of the rows of a matrix that is divided over devices, P(axes, None): their parts
        must divide rows and columns. In `subspace`, of a matrix with at least as many rows as
        columns, each device then multiplies a part of the Gram matrix, and they exchange blocks of
        some columns alone. None leaves it to the compiler.

    Returns:
      The triplets; `unsettled` is 0 for exact and randomized, which have no rounds.
    """
    chex.assert_rank(matrix, 2)
    return _METHODS[method](matrix.astype(jnp.float32), min(k, *matrix.shape), sharding)


def leading_sum(matrix: jax.Array, k: int, method: Method = "subspace") -> jax.Array:
    """Return s_1 + ... + s_k, with gradient U_k V_k^T.

    Directions whose singular value is zero to rounding are left out of the gradient.

    Args:
      matrix: [rows, columns], cast to float32.
      k: number of singular values.
      method: as in `leading_triplets`.

    Returns:
      [], float32.
    """
    value, _ = checked_sum(matrix, k, method)
    return value


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3))
def checked_sum(
    matrix: jax.Array,
    k: int,
    method: Method = "subspace",
    sharding: NamedSharding | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Return what `leading_sum` does, and whether its rounds ended before they had converged.

    Args:
      matrix: as for `leading_sum`.
      k: as for `leading_sum`.
      method: as for `leading_sum`.
      sharding: as for `leading_triplets`.

    Returns:
      The sum [], and `Triplets.unsettled` [] without a gradient; float32.
    """
    found = leading_triplets(matrix, k, method, sharding)
    return jnp.sum(found.values), found.unsettled


@checked_sum.defjvp
def _checked_sum_jvp(k, method, sharding, primals, tangents):
    (matrix,) = primals
    (tangent,) = tangents
    left, values, right, unsettled = leading_triplets(matrix, k, method, sharding)
    left = jnp.where(values > tolerance(values[0], matrix.shape), left, 0.0)

    # d(s_1 + ... + s_k) = sum_i u_i^T dZ v_i
    derivative = jnp.sum(left * product(tangent.astype(jnp.float32), right))
    return (jnp.sum(values), unsettled), (derivative, jnp.zeros_like(unsettled))
