"""LoRA-GA: adapters initialized from the task loss's gradient (Wang et al., arXiv 2407.05000)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util
from jax.sharding import Mesh

from balora_jax.adapters.layerwise import factorize_layers
from balora_jax.adapters.targets import Path, adapted_leaf
from balora_jax.linalg.randomized import randomized_svd

# The paper's gamma: the larger, the smaller the initial A and B. The official code's default.
GAMMA = 16.0
# Columns that the subspace iteration carries beyond 2 r.
OVERSAMPLING = 8


def kernel_gradients(
    loss: Callable[[Any], jax.Array], params: Mapping[str, Any], paths: Sequence[Path]
) -> dict[Path, jax.Array]:
    """Gradients of a loss with respect to the kernels at `paths` only.

        params  {"q": {"kernel": W, "bias": c}, "o": {"kernel": V}},  paths [("q",)]
        result  {("q",): dL/dW}

    No gradient is computed for any other parameter.

    Args:
      loss: params -> scalar.
      params: nested dict with a `kernel` at every path.
      paths: the layers.

    Returns:
      The gradient at every path, with the kernel's shape and dtype.
    """
    flat = traverse_util.flatten_dict(params)
    kernels = {path: flat[adapted_leaf(flat, path)] for path in paths}

    def loss_of_kernels(kernels: dict[Path, jax.Array]) -> jax.Array:
        replaced = {adapted_leaf(flat, path): kernel for path, kernel in kernels.items()}
        return loss(traverse_util.unflatten_dict({**flat, **replaced}))

    return jax.grad(loss_of_kernels)(kernels)


def gradient_factors(
    gradient: jax.Array,
    rank: int,
    *,
    gamma: float = GAMMA,
    niter: int | None = None,
    key: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """LoRA-GA's factors of one kernel (Wang et al., arXiv 2407.05000, algorithm 1).

    With the gradient G = U S V^T, singular values in descending order:

        a = out^(1/4) / gamma^(1/2) * U[:, :r]
        b = out^(1/4) / gamma^(1/2) * V[:, r:2r]^T

    One step of gradient descent from here moves the kernel along the best rank-2r approximation
    of G (theorem 3.1): the gradient of a reaches the directions of b, and that of b those of a.
    Where the gradient has fewer than 2r directions, b takes the last r of them.

    The paper writes y = W x with W [out, in]; there these are B = U[:, r:2r] and A = V[:, :r]^T.

    Args:
      gradient: [in, out], any float dtype; computed in float32.
      rank: r, at most min(in, out).
      gamma: scale factor.
      niter: number of iterations of the randomized SVD; None for the exact SVD.
      key: random key of the randomized SVD; unused by the exact one.

    Returns:
      a [in, r] and b [r, out], float32.
    """
    gradient = gradient.astype(jnp.float32)
    fan_out = gradient.shape[1]
    directions = min(2 * rank, *gradient.shape)
    if niter is None:
        with jax.default_matmul_precision("highest"):
            u, _, vt = jnp.linalg.svd(gradient, full_matrices=False)
    else:
        u, _, vt = randomized_svd(
            gradient, directions, niter=niter, key=key, oversampling=OVERSAMPLING
        )
    size = fan_out**0.25 / gamma**0.5
    a = size * u[:, :rank]
    b = size * vt[directions - rank : directions]
    return a, b


def init_lora_ga(
    params: Mapping[str, Any],
    paths: Sequence[Path],
    rank: int,
    *,
    gradient: Mapping[Path, jax.Array],
    scale: float = 1.0,
    niter: int | None = None,
    key: jax.Array,
    mesh: Mesh | None = None,
) -> Mapping[str, Any]:
    """LoRA-GA adapters for the layers at `paths`.

    The initial product is not zero. The delta and the residual form both subtract it, so that the
    model of step 0 is the pre-trained one.

    Args:
      params: unused; the gradient has the kernels' shapes.
      paths: the layers to adapt.
      rank: r, at most min(in, out) of every kernel.
      gradient: the task loss's gradient with respect to the kernel at every path, [in, out] or
        [layers, in, out], as from `kernel_gradients`.
      scale: unused; algorithm 1's factors do not depend on the scale.
      niter: as in `gradient_factors`.
      key: random key.
      mesh: as in `init_pissa`.

    Returns:
      {a, b} at every path: a [..., in, rank] and b [..., rank, out], float32.
    """
    del params, scale
    gradients = {path: gradient[path] for path in paths}

    def factorize(matrix: jax.Array, matrix_key: jax.Array) -> tuple[jax.Array, jax.Array]:
        return gradient_factors(matrix, rank, niter=niter, key=matrix_key)

    return factorize_layers(gradients, factorize, key, mesh)
