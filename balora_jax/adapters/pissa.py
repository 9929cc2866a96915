"""PiSSA: adapters that start on the principal directions of the weights (Meng et al., arXiv 2404.02948)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util

from balora_jax.adapters.targets import Path

# Columns beyond the rank that the subspace iteration carries: they cost little and settle the last directions.
OVERSAMPLING = 8


def principal_factors(
    kernel: jax.Array, rank: int, *, niter: int | None = None, key: jax.Array | None = None
):
    """The best rank-r approximation of a kernel, split evenly: a = U_r S_r^(1/2), b = S_r^(1/2) V_r^T (PiSSA, eq. 2).

    Args:
      kernel: [in, out], any float dtype; worked on in float32.
      rank: r, at most min(in, out).
      niter: None for an exact SVD, or the number of randomized subspace iterations
        (Halko et al., 2011, algorithm 4.4).
      key: random key of the subspace iteration's start.

    Returns:
      a [in, r] and b [r, out], float32.
    """
    kernel = kernel.astype(jnp.float32)
    with jax.default_matmul_precision("highest"):
        if niter is None:
            u, s, vt = jnp.linalg.svd(kernel, full_matrices=False)
        else:
            u, s, vt = _randomized_svd(kernel, rank, niter, key)
    root = jnp.sqrt(s[:rank])
    return u[:, :rank] * root, root[:, None] * vt[:rank]


def _randomized_svd(kernel: jax.Array, rank: int, niter: int, key: jax.Array):
    if kernel.shape[0] > kernel.shape[1]:
        u, s, vt = _randomized_svd(kernel.T, rank, niter, key)
        return vt.T, s, u.T
    width = min(rank + OVERSAMPLING, kernel.shape[0])
    basis = _orthonormal(kernel @ jax.random.normal(key, (kernel.shape[1], width)))
    # An iteration is a product with K K^T. Formed once, it saves most of each: worth it from a few iterations on, as a
    # product of large matrices runs at about twice the speed of one with few columns.
    if niter > 1 and 4 * niter * width > kernel.shape[0]:
        gram = kernel @ kernel.T
        basis = jax.lax.fori_loop(0, niter - 1, lambda _, basis: _orthonormal(gram @ basis), basis)
        # The last one is with K itself: squared, what is below 3e-4 of the largest value is lost in float32.
        niter = 1

    def iterate(_, basis):
        return _orthonormal(kernel @ _orthonormal(kernel.T @ basis))

    basis = jax.lax.fori_loop(0, niter, iterate, basis)
    u, s, vt = jnp.linalg.svd(basis.T @ kernel, full_matrices=False)
    return basis @ u, s, vt


def _orthonormal(block: jax.Array) -> jax.Array:
    return jnp.linalg.qr(block)[0]


def init_pissa(
    params: Mapping[str, Any],
    paths: Sequence[Path],
    rank: int,
    *,
    scale: float = 1.0,
    niter: int | None = None,
    key: jax.Array,
    gather: Callable[[jax.Array], jax.Array] = lambda kernel: kernel,
) -> Mapping[str, Any]:
    """PiSSA adapters for the layers at `paths`, so that scale * a b is each kernel's principal part.

    Stacked kernels [layers, in, out] are split one layer at a time in one compiled loop.

    Args:
      params: the frozen tree.
      paths: the layers to adapt.
      rank: r.
      scale: what the model multiplies a b by; the factors are divided by it, as PEFT does.
      niter: as in `principal_factors`.
      key: random key.
      gather: applied to each kernel [in, out] first; on a mesh it replicates the kernel, so that every
        mesh gets the same factors.
    """
    flat = traverse_util.flatten_dict(params)

    @jax.jit
    def split(kernels: jax.Array, keys: jax.Array):
        def one(pair):
            a, b = principal_factors(gather(pair[0]), rank, niter=niter, key=pair[1])
            return a / jnp.sqrt(scale), b / jnp.sqrt(scale)

        return jax.lax.map(one, (kernels, keys))

    adapters = {}
    for path, path_key in zip(paths, jax.random.split(key, len(paths)), strict=True):
        kernel = flat[(*path, "kernel")]
        stacked = kernel if kernel.ndim == 3 else kernel[None]
        a, b = split(stacked, jax.random.split(path_key, len(stacked)))
        adapters[(*path, "a")], adapters[(*path, "b")] = (
            (a, b) if kernel.ndim == 3 else (a[0], b[0])
        )
    return traverse_util.unflatten_dict(adapters)
