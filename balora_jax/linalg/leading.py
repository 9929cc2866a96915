"""The largest singular values of a matrix, and the directions they belong to, by matrix products.

A block of vectors is filtered by Chebyshev polynomials of the Gram matrix and rotated by Rayleigh-Ritz until its
first k are singular vectors: first on the Gram matrix, whose products are cheap, then on the matrix itself,
because squaring loses in float32 what is smaller than about 3e-4 of the largest value.
"""

import functools
from collections.abc import Callable
from typing import Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp

from balora_jax.linalg.singular_values import tolerance

Method = Literal["subspace", "exact", "randomized"]
Triplets = tuple[jax.Array, jax.Array, jax.Array]

EPS = float(jnp.finfo(jnp.float32).eps)
TINY = 1e-37
# Vectors beside the k wanted ones: the more, the wider the gap to what must be filtered out.
EXTRA = 22
# A direction may lean by this much out of the block before the rounds end; the gradient leans no more.
ANGLE = 1e-4
# Rounding keeps residuals above a few eps of the largest value: no more can be asked.
FLOOR = 5 * EPS
ROUNDS = 12
# A filter may raise the largest value over the smallest wanted one by this factor: more, and float32 loses the rest.
GROWTH = 2e3
DEGREE = 20

# On TPUs and GPUs float32 products are rounded to bfloat16 or tf32 unless told otherwise.
product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


class _Block(NamedTuple):
    """Approximate right singular vectors (columns), largest first, and how good they are."""

    left: jax.Array | None  # [m, b], where the matrix itself was used
    right: jax.Array  # [n, b]
    squares: jax.Array  # [b], squared singular values
    image: jax.Array  # [n, b], the Gram matrix applied to `right`
    levels: (
        jax.Array
    )  # [b], what the residuals are compared with: squares on the Gram matrix, values on the matrix
    residual: jax.Array  # [b]


def _orthonormal(block: jax.Array) -> jax.Array:
    return jnp.linalg.qr(block)[0]


def _ritz_on_gram(gram: jax.Array, basis: jax.Array) -> _Block:
    image = product(gram, basis)
    squares, turn = jnp.linalg.eigh(product(basis.T, image))
    squares, turn = jnp.maximum(squares[::-1], 0.0), turn[:, ::-1]
    right, image = product(basis, turn), product(image, turn)
    return _Block(
        None, right, squares, image, squares, jnp.linalg.norm(image - right * squares, axis=0)
    )


def _ritz_on_matrix(matrix: jax.Array, basis: jax.Array) -> _Block:
    left, values, turn = jnp.linalg.svd(product(matrix, basis), full_matrices=False)
    right, back = product(basis, turn.T), product(matrix.T, left)
    residual = jnp.linalg.norm(back - right * values, axis=0)
    return _Block(left, right, values**2, back * values, values, residual)


def _filtered(
    block: _Block, gram_times: Callable[[jax.Array], jax.Array], number: jax.Array
) -> jax.Array:
    """The block, with the share of everything smaller than its last value damped; in round 0 as it is."""
    half = jnp.maximum(block.squares[-1] / 2, EPS**2 * block.squares[0] + TINY)
    growth = jnp.arccosh(jnp.maximum(block.squares[0] / half - 1, 1 + EPS))
    degree = jnp.where(
        number == 0, 1, jnp.clip(jnp.log(GROWTH) / growth, 1, DEGREE).astype(jnp.int32)
    )

    def step(_, last_two):
        before, now = last_two
        return now, 2 * (gram_times(now) / half - now) - before

    first = block.right, block.image / half - block.right
    _, filtered = jax.lax.fori_loop(1, degree, step, first)
    # On a steep spectrum one product is filter enough; scaled, its small columns survive beside the large ones.
    return jnp.where(degree > 1, filtered, block.image / jnp.maximum(block.squares, TINY))


def _refine(ritz: Callable, gram_times: Callable, basis: jax.Array, k: int) -> _Block:
    """Rounds of filter and rotation until the first k vectors lean out of the block by less than ANGLE."""

    def unsettled(state):
        number, block = state
        allowed = ANGLE * (block.levels[:k] - block.levels[-1]) + FLOOR * block.levels[0]
        return (number == 0) | (number <= ROUNDS) & jnp.any(block.residual[:k] > allowed)

    def round_(state):
        number, block = state
        return number + 1, ritz(_orthonormal(_filtered(block, gram_times, number)))

    # Nothing is known of the first basis: round 0 only orders it.
    shapes = jax.eval_shape(ritz, basis)
    unknown = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), shapes)._replace(
        image=basis
    )
    return jax.lax.while_loop(unsettled, round_, (0, unknown))[1]


def _tall_subspace(matrix: jax.Array, k: int) -> Triplets:
    columns = matrix.shape[1]
    gram = product(matrix.T, matrix)
    # Any block will do to begin with: the result does not depend on it, beyond ANGLE.
    start = jax.random.normal(jax.random.key(0), (columns, min(k + EXTRA, columns)))
    on_gram, on_matrix = (
        functools.partial(_ritz_on_gram, gram),
        functools.partial(_ritz_on_matrix, matrix),
    )
    rough = _refine(on_gram, functools.partial(product, gram), product(gram, start), k)
    fine = _refine(
        on_matrix, lambda block: product(matrix.T, product(matrix, block)), rough.right, k
    )
    return fine.left[:, :k], fine.levels[:k], fine.right[:, :k]


def _subspace(matrix: jax.Array, k: int) -> Triplets:
    if matrix.shape[0] >= matrix.shape[1]:
        return _tall_subspace(matrix, k)
    right, values, left = _tall_subspace(matrix.T, k)
    return left, values, right


def _randomized(matrix: jax.Array, k: int) -> Triplets:
    width = min(k + 5, *matrix.shape)
    basis = _orthonormal(
        product(matrix, jax.random.normal(jax.random.key(0), (matrix.shape[1], width)))
    )
    for _ in range(2):
        basis = _orthonormal(product(matrix, _orthonormal(product(matrix.T, basis))))
    left, values, right = jnp.linalg.svd(product(basis.T, matrix), full_matrices=False)
    return product(basis, left)[:, :k], values[:k], right[:k].T


def _exact(matrix: jax.Array, k: int) -> Triplets:
    left, values, right = jnp.linalg.svd(matrix, full_matrices=False)
    return left[:, :k], values[:k], right[:k].T


_METHODS = {"subspace": _subspace, "exact": _exact, "randomized": _randomized}


def leading_triplets(matrix: jax.Array, k: int, method: Method = "subspace") -> Triplets:
    """The k largest singular values with their vectors.

    Args:
      matrix: [rows, columns], float32.
      k: how many; all there are, if that is fewer.
      method: subspace, block iterations with Chebyshev filters to a gradient error near 1e-4, on flat spectra too;
        exact, a whole decomposition; randomized, svd_lowrank(q = k + 5, niter = 2) as in the official code,
        good on decaying spectra only.

    Returns:
      (left [rows, k], values [k] largest first, right [columns, k]), float32.
    """
    chex.assert_rank(matrix, 2)
    return _METHODS[method](matrix.astype(jnp.float32), min(k, *matrix.shape))


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def leading_sum(matrix: jax.Array, k: int, method: Method = "subspace") -> jax.Array:
    """s_1 + ... + s_k, whose gradient is U_k V_k^T (without the directions that are zero to rounding).

    Args:
      matrix: [rows, columns], cast to float32.
      k: how many singular values.
      method: see `leading_triplets`.

    Returns:
      [], float32.
    """
    return jnp.sum(leading_triplets(matrix, k, method)[1])


@leading_sum.defjvp
def _leading_sum_jvp(k, method, primals, tangents):
    (matrix,), (change,) = primals, tangents
    left, values, right = leading_triplets(matrix, k, method)
    left = jnp.where(values > tolerance(values[0], matrix.shape), left, 0.0)
    return jnp.sum(values), jnp.sum(left * product(change.astype(jnp.float32), right))
