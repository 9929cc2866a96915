"""Adapters computed from one matrix per layer, such as a kernel or its gradient."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import traverse_util

from balora_jax.adapters.targets import Path

# (matrix [in, out], random key) -> (a [in, rank], b [rank, out])
Factorize = Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


def factorize_layers(
    matrices: Mapping[Path, jax.Array], factorize: Factorize, key: jax.Array
) -> Mapping[str, Any]:
    """Apply a factorization to the matrix of every layer.

        {("layers", "q"): [3, in, out]}  ->  {"layers": {"q": {"a": [3, in, rank],
                                                               "b": [3, rank, out]}}}
        {("o",): [in, out]}              ->  {"o": {"a": [in, rank], "b": [rank, out]}}

    Stacked layers are processed one at a time in one compiled loop, so memory holds the
    decomposition of a single layer.

    Args:
      matrices: [in, out] or [layers, in, out] at every path.
      factorize: the factorization of one layer's matrix.
      key: random key; each layer gets its own.

    Returns:
      {a, b} at every path.
    """

    @jax.jit
    def factorize_stack(stack: jax.Array, keys: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.lax.map(lambda layer: factorize(*layer), (stack, keys))

    adapters = {}
    path_keys = jax.random.split(key, len(matrices))
    for (path, matrix), path_key in zip(matrices.items(), path_keys, strict=True):
        is_stacked = matrix.ndim == 3
        stack = matrix if is_stacked else matrix[None]
        a, b = factorize_stack(stack, jax.random.split(path_key, len(stack)))
        adapters[(*path, "a")] = a if is_stacked else a[0]
        adapters[(*path, "b")] = b if is_stacked else b[0]
    return traverse_util.unflatten_dict(adapters)
