"""Adapters computed from one matrix per layer, such as a kernel or its gradient."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from balora_jax.adapters.targets import Path

# (matrix [in, out], random key) -> (a [in, rank], b [rank, out])
Factorize = Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


def factorize_layers(
    matrices: Mapping[Path, jax.Array],
    factorize: Factorize,
    key: jax.Array,
    mesh: Mesh | None = None,
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
      mesh: the devices over which the layers are divided. Each factorizes whole matrices, so that
        the factors do not depend on the mesh. None for where the matrices lie.

    Returns:
      {a, b} at every path; on a mesh, whole on each of its devices.
    """
    factorize_stack = jax.jit(functools.partial(_factorize_stack, factorize, mesh))
    adapters = {}
    path_keys = jax.random.split(key, len(matrices))
    for (path, matrix), path_key in zip(matrices.items(), path_keys, strict=True):
        is_stacked = matrix.ndim == 3
        stack = matrix if is_stacked else matrix[None]
        a, b = factorize_stack(stack, jax.random.split(path_key, len(stack)))
        adapters[(*path, "a")] = a if is_stacked else a[0]
        adapters[(*path, "b")] = b if is_stacked else b[0]
    return traverse_util.unflatten_dict(adapters)


def _factorize_stack(
    factorize: Factorize, mesh: Mesh | None, stack: jax.Array, keys: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Factorize [layers, in, out] with one key a layer."""

    def one_by_one(stack: jax.Array, keys: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.lax.map(lambda layer: factorize(*layer), (stack, keys))

    if mesh is None or mesh.size == 1:
        return one_by_one(stack, keys)
    layers = len(stack)
    missing = -layers % mesh.size
    # The last layer again, where the devices do not divide the layers.
    stack = jnp.pad(stack, [(0, missing), (0, 0), (0, 0)], mode="edge")
    keys = keys[jnp.minimum(jnp.arange(layers + missing), layers - 1)]
    divided = P(mesh.axis_names)
    if stack.shape[1] % mesh.size == 0:
        # From parts of rows to layers in one exchange; else XLA would make the whole stack at once.
        by_rows = NamedSharding(mesh, P(None, mesh.axis_names))
        stack = jax.lax.with_sharding_constraint(stack, by_rows)
    on_mesh = jax.shard_map(
        one_by_one, mesh=mesh, in_specs=divided, out_specs=divided, check_vma=False
    )
    # The factors are small; XLA could not exchange them from layers to rows without a warning.
    whole = NamedSharding(mesh, P())
    a, b = jax.lax.with_sharding_constraint(on_mesh(stack, keys), whole)
    return a[:layers], b[:layers]
