"""The SVD of a tall matrix whose rows are divided over devices."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from balora_jax.linalg.precise import product


class TallSVD(NamedTuple):
    """The singular values and vectors of a matrix [m, n], float32.

    Attributes:
      left: [m, n].
      values: [n], in descending order.
      right: [n, n], the transposed right vectors.
    """

    left: jax.Array
    values: jax.Array
    right: jax.Array


def parts_of(sharding: NamedSharding | None) -> int:
    """The number of parts that a sharding P(axes, None) divides rows into.

    Args:
      sharding: the sharding; None for one part.
    """
    if sharding is None:
        return 1
    axes, _ = sharding.spec
    return math.prod(sharding.mesh.shape[axis] for axis in axes)


def tall_svd(matrix: jax.Array, sharding: NamedSharding | None) -> TallSVD:
    """Decompose a tall matrix; devices exchange n x n matrices alone.

    Each part of the rows is decomposed as Q_i R_i where it is, then all R_i together (TSQR, Demmel
    et al., arXiv 0809.2407), then the last R. A decomposition of the whole matrix would gather it
    once for every column.

    Args:
      matrix: [m, n] with n <= m, float32.
      sharding: of the rows, P(axes, None), whose parts divide m; None for rows in one place.

    Returns:
      The decomposition.
    """
    if sharding is None:
        return TallSVD(*jnp.linalg.svd(matrix, full_matrices=False))
    columns = matrix.shape[1]
    axes, _ = sharding.spec
    by_part = NamedSharding(sharding.mesh, P(axes, None, None))
    blocks = matrix.reshape(parts_of(sharding), -1, columns)
    blocks = jax.lax.with_sharding_constraint(blocks, by_part)
    bases, triangles = jnp.linalg.qr(blocks)
    basis, triangle = jnp.linalg.qr(triangles.reshape(-1, columns))
    rotation, values, right = jnp.linalg.svd(triangle)
    # Of each part's own basis, and of all of them.
    rotations = product(basis, rotation).reshape(len(blocks), -1, columns)
    return TallSVD(product(bases, rotations).reshape(matrix.shape), values, right)
