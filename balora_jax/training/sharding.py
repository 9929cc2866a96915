"""The mesh, and the sharding of each array by an ordered table of (pattern, axes)."""

import math
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from balora_jax.config import MeshConfig
from balora_jax.errors import BadInput

AXES = ("data", "fsdp", "tensor")
# Ordered (regular expression, mesh axes of the last dimensions); see models/sharding.py.
Rules = Sequence[tuple[str, tuple[str | tuple[str, ...] | None, ...]]]


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh (data, fsdp, tensor) over the given devices, or all there are; sizes given in full may leave some idle.

    Raises:
      BadInput: sizes that do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [getattr(config, axis) for axis in AXES]
    given = math.prod(size for size in sizes if size > 0)
    sizes = [len(devices) // given if size == -1 else size for size in sizes]
    used = math.prod(sizes)
    if used not in range(1, len(devices) + 1) or (
        -1 in vars(config).values() and used < len(devices)
    ):
        raise BadInput(
            f"mesh data {config.data} x fsdp {config.fsdp} x tensor {config.tensor} does not fit the {len(devices)} "
            "devices here; accepted: sizes whose product is at most that, with -1 on one axis for all that are left"
        )
    return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * 3, devices=devices[:used])


def leaf_sharding(mesh: Mesh, path: str, shape: tuple[int, ...], rules: Rules) -> NamedSharding:
    """The sharding of a leaf: by the first rule found in its path, replicated where the size does not divide.

    Args:
      mesh: (data, fsdp, tensor).
      path: the leaf's path, joined by slashes.
      shape: of the leaf.
      rules: ordered (regular expression, axes), such as a model's `sharding_rules`.

    Returns:
      The sharding; of the last dimensions if the rule has fewer axes than the shape.
    """
    axes = next((axes for pattern, axes in rules if re.search(pattern, path)), ())
    axes = (None,) * (len(shape) - len(axes)) + axes[-len(shape) :] if shape else ()
    return NamedSharding(
        mesh, P(*(_fitting(mesh, axis, size) for axis, size in zip(axes, shape, strict=True)))
    )


def _fitting(
    mesh: Mesh, axes: str | tuple[str, ...] | None, size: int
) -> str | tuple[str, ...] | None:
    """The axes, or the first of them, or None: what divides the size."""
    names = (axes,) if isinstance(axes, str) else axes or ()
    while names and size % math.prod(mesh.shape[name] for name in names):
        names = names[:-1]
    return names if len(names) > 1 else names[0] if names else None


def tree_shardings(mesh: Mesh, tree: Any, rules: Rules) -> Any:
    """The sharding of every leaf of a tree of arrays (or of their shapes), by the rules of `leaf_sharding`."""

    def sharding_of(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return leaf_sharding(mesh, name, leaf.shape, rules)

    return jax.tree_util.tree_map_with_path(sharding_of, tree)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Batches [micro-batches, examples, ...]: examples over data and fsdp."""
    return NamedSharding(mesh, P(None, ("data", "fsdp")))


def check_batch(mesh: Mesh, batch_size: int, accumulation: int) -> None:
    """Raises BadInput when a micro-batch cannot be divided over the mesh's data and fsdp axes."""
    micro, shards = batch_size // accumulation, mesh.shape["data"] * mesh.shape["fsdp"]
    if micro % shards:
        raise BadInput(
            f"training.batch_size {batch_size} / training.accumulation {accumulation} = {micro} examples a micro-batch "
            f"is not divisible by mesh data x fsdp = {shards}; accepted: a multiple of {shards}"
        )


def put(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """A host array on the mesh; on several hosts each gives the parts its devices hold."""
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])
