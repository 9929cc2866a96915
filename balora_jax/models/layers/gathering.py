"""Kernels and factors that are divided over devices, gathered before their products."""

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from balora_jax.models.sharding import FSDP, TENSOR


def is_worth_gathering(x: jax.Array, mesh: Mesh | None) -> bool:
    """Return True if a mesh divides kernels over fsdp alone, and texts have more than a token.

    A model that generates reads one token a row, which is less to send than a kernel is.

    Args:
      x: what a kernel is multiplied by, [texts, tokens, in] or fewer axes.
      mesh: the devices; None for the default one.
    """
    if mesh is None or FSDP not in mesh.axis_names or x.ndim < 3 or x.shape[-2] == 1:
        return False
    return mesh.shape[FSDP] > 1 and mesh.shape.get(TENSOR, 1) == 1


def gathered(mesh: Mesh | None, array: jax.Array) -> jax.Array:
    """Return an array that is whole on every device of a mesh; as it is without one.

    Args:
      mesh: the devices.
      array: divided over them in any way.
    """
    if mesh is None:
        return array
    return jax.lax.with_sharding_constraint(array, NamedSharding(mesh, P()))
