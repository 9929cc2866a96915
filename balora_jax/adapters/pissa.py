"""PiSSA: adapters initialized to the kernels' principal parts (Meng et al., arXiv 2404.02948)."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util
from jax.sharding import Mesh

from balora_jax.adapters.layerwise import factorize_layers
from balora_jax.adapters.targets import Path, adapted_leaf
from balora_jax.linalg.randomized import randomized_svd

# Columns that the subspace iteration carries beyond the rank.
OVERSAMPLING = 8


def principal_factors(
    kernel: jax.Array, rank: int, *, niter: int | None = None, key: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """Factor a kernel's best rank-r approximation, with its singular values split evenly.

    a = U_r S_r^(1/2) and b = S_r^(1/2) V_r^T (PiSSA, eq. 2 and 3).

    Args:
      kernel: [in, out], any float dtype; computed in float32.
      rank: r, at most min(in, out).
      niter: number of iterations of the randomized SVD; None for the exact SVD.
      key: random key of the randomized SVD; unused by the exact one.

    Returns:
      a [in, r] and b [r, out], float32.
    """
    kernel = kernel.astype(jnp.float32)
    with jax.default_matmul_precision("highest"):
        if niter is None:
            u, s, vt = jnp.linalg.svd(kernel, full_matrices=False)
        else:
            u, s, vt = randomized_svd(kernel, rank, niter=niter, key=key, oversampling=OVERSAMPLING)
    root = jnp.sqrt(s[:rank])
    a = u[:, :rank] * root
    b = root[:, None] * vt[:rank]
    return a, b


def init_pissa(
    params: Mapping[str, Any],
    paths: Sequence[Path],
    rank: int,
    *,
    scale: float = 1.0,
    niter: int | None = None,
    key: jax.Array,
    mesh: Mesh | None = None,
) -> Mapping[str, Any]:
    """PiSSA adapters for the layers at `paths`: scale * a b is each kernel's principal part.

    Args:
      params: frozen parameters; a nested dict.
      paths: the layers to adapt.
      rank: r, at most min(in, out) of every kernel.
      scale: the model's factor of a b; both factors are divided by its root, as in PEFT.
      niter: as in `principal_factors`.
      key: random key.
      mesh: the devices over which the layers are divided; see `factorize_layers`.

    Returns:
      {a, b} at every path: a [..., in, rank] and b [..., rank, out], float32.
    """
    flat = traverse_util.flatten_dict(params)
    kernels = {path: flat[adapted_leaf(flat, path)] for path in paths}

    def factorize(kernel: jax.Array, kernel_key: jax.Array) -> tuple[jax.Array, jax.Array]:
        a, b = principal_factors(kernel, rank, niter=niter, key=kernel_key)
        return a / jnp.sqrt(scale), b / jnp.sqrt(scale)

    return factorize_layers(kernels, factorize, key, mesh)
