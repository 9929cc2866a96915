"""The mesh, and where each array lies on it: an ordered table of (pattern, axes)."""

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
# The first pattern found in a leaf's path gives the axes of its last dimensions. A and B lie as their kernel does:
# the input side of A like the kernel's rows, the output side of B like its columns; and over fsdp in any case, or
# every device would hold half of the adapters, their gradients and the optimizer's state whole.
COLUMN_PARALLEL = r"(q_proj|k_proj|v_proj|gate_proj|up_proj|lm_head)"
ROW_PARALLEL = r"(o_proj|down_proj)"
BOTH = ("tensor", "fsdp")
RULES: tuple[tuple[str, tuple[str | tuple[str, ...] | None, ...]], ...] = (
    (rf"{COLUMN_PARALLEL}/kernel$", ("fsdp", "tensor")),
    (rf"{ROW_PARALLEL}/kernel$", ("tensor", "fsdp")),
    (rf"{ROW_PARALLEL}/a$", (BOTH, None)),
    (rf"{ROW_PARALLEL}/b$", (None, "fsdp")),
    (r"embedding$", ("tensor", "fsdp")),
    (r"kernel$", ("fsdp", "tensor")),
    (r"/a$", ("fsdp", None)),
    (r"/b$", (None, BOTH)),
)


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


def leaf_sharding(mesh: Mesh, path: str, shape: tuple[int, ...]) -> NamedSharding:
    """Where a leaf lies: by the first rule found in its path, replicated along axes that do not divide it."""
    axes = next((axes for pattern, axes in RULES if re.search(pattern, path)), ())
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


def tree_shardings(mesh: Mesh, tree: Any) -> Any:
    """The sharding of every leaf of a tree of arrays (or of their shapes)."""

    def one(path, leaf):
        return leaf_sharding(
            mesh, jax.tree_util.keystr(path, simple=True, separator="/"), leaf.shape
        )

    return jax.tree_util.tree_map_with_path(one, tree)


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
