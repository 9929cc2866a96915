"""The mesh, and the sharding of every array on it, by an ordered table of (pattern, axes)."""

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
    """Make a mesh with the axes data, fsdp and tensor.

    Args:
      config: the size of each axis; -1 on one axis takes all devices that are left. Sizes without a
        -1 may leave devices idle.
      devices: the devices; all devices of the process by default.

    Returns:
      The mesh.

    Raises:
      BadInput: the sizes do not fit the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = _sizes(config, len(devices))
    if sizes is None:
        raise BadInput(
            f"mesh data {config.data} x fsdp {config.fsdp} x tensor {config.tensor} "
            f"does not fit the {len(devices)} devices here; accepted: sizes whose product is "
            "at most that, with -1 on one axis for all that are left"
        )
    used = devices[: math.prod(sizes)]
    return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * 3, devices=used)


def mesh_here(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Make a run's mesh; where its sizes do not fit the devices, one that divides weights over all.

    So it does where they were chosen for the devices that the run had.

    Args:
      config: of the run, which may have been trained on other devices.
      devices: as for `make_mesh`.

    Returns:
      The mesh.
    """
    devices = jax.devices() if devices is None else devices
    if not config.auto and _sizes(config, len(devices)) is not None:
        mesh = make_mesh(config, devices)
        if are_of_all(mesh.devices.flatten()):
            return mesh
    return make_mesh(MeshConfig(data=1, fsdp=-1), devices)


def are_of_all(devices: Sequence[jax.Device]) -> bool:
    """Return True if every process has some of the devices.

    Args:
      devices: of a mesh; those of a pod that is not here are of one process.
    """
    if jax.process_count() == 1:
        return True
    return len({device.process_index for device in devices}) == jax.process_count()


def check_processes(mesh: Mesh) -> None:
    """Check that every process has devices of a mesh.

    Args:
      mesh: the devices.

    Raises:
      BadInput: one has none.
    """
    if not are_of_all(mesh.devices.flatten()):
        sizes = " x ".join(f"{axis} {mesh.shape[axis]}" for axis in AXES)
        raise BadInput(
            f"mesh {sizes} leaves the devices of whole processes idle; accepted: one with devices "
            f"of all {jax.process_count()}, or fewer processes"
        )


def _sizes(config: MeshConfig, devices: int) -> list[int] | None:
    """The sizes of the axes; None if they do not fit so many devices."""
    sizes = [getattr(config, axis) for axis in AXES]
    given = math.prod(size for size in sizes if size > 0)
    takes_all = -1 in sizes
    sizes = [devices // given if size == -1 else size for size in sizes]
    used = math.prod(sizes)
    if used not in range(1, devices + 1) or (takes_all and used < devices):
        return None
    return sizes


def leaf_sharding(mesh: Mesh, path: str, shape: tuple[int, ...], rules: Rules) -> NamedSharding:
    """Return the sharding of a leaf, by the first rule whose pattern its path contains.

    Args:
      mesh: the devices.
      path: the leaf's path, joined by slashes.
      shape: the leaf's shape. A dimension that an axis does not divide is replicated along it.
      rules: ordered (regular expression, axes), such as a model's `sharding_rules`; the axes are
        those of the leaf's last dimensions.
    """
    axes = next((axes for pattern, axes in rules if re.search(pattern, path)), ())
    axes = (None,) * (len(shape) - len(axes)) + axes[-len(shape) :] if shape else ()
    return NamedSharding(
        mesh, P(*(_fitting(mesh, axis, size) for axis, size in zip(axes, shape, strict=True)))
    )


def _fitting(
    mesh: Mesh, axes: str | tuple[str, ...] | None, size: int
) -> str | tuple[str, ...] | None:
    """The longest leading part of the axes whose sizes divide the dimension, or None."""
    names = (axes,) if isinstance(axes, str) else axes or ()
    while names and size % math.prod(mesh.shape[name] for name in names):
        names = names[:-1]
    return names if len(names) > 1 else names[0] if names else None


def tree_shardings(mesh: Mesh, tree: Any, rules: Rules) -> Any:
    """Return the sharding of every leaf.

    Args:
      mesh: the devices.
      tree: a tree of arrays or shapes.
      rules: as for `leaf_sharding`.

    Returns:
      A tree of the same structure, of NamedSharding.
    """

    def sharding_of(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return leaf_sharding(mesh, name, leaf.shape, rules)

    return jax.tree_util.tree_map_with_path(sharding_of, tree)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Return the sharding of batches [micro-batches, examples, ...], over data and fsdp."""
    return NamedSharding(mesh, P(None, ("data", "fsdp")))


def row_sharding(mesh: Mesh) -> NamedSharding:
    """Return the sharding of batches [rows, ...] without micro-batches, over data and fsdp."""
    return NamedSharding(mesh, P(("data", "fsdp")))


def check_batch(mesh: Mesh, batch_size: int, accumulation: int) -> None:
    """Check that a micro-batch can be divided over the data and fsdp axes.

    Args:
      mesh: the devices.
      batch_size: examples of an update.
      accumulation: micro-batches of an update.

    Raises:
      BadInput: it cannot.
    """
    micro = batch_size // accumulation
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    if micro % shards:
        raise BadInput(
            f"training.batch_size {batch_size} / training.accumulation {accumulation} = {micro} "
            f"examples a micro-batch is not divisible by mesh data x fsdp = {shards}; "
            f"accepted: a multiple of {shards}"
        )


def put(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """Place a host array on the mesh; each host places the shards of its own devices.

    Args:
      array: the whole array, the same on every host.
      sharding: the mesh and the axes.
    """
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])
