"""The mesh of a run: as it is configured, or chosen by the devices, the model and the batch."""

import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from flax import traverse_util
from jax.sharding import Mesh

from balora_jax import models
from balora_jax.config import MeshConfig, RunConfig
from balora_jax.errors import BadInput
from balora_jax.runs.setup import build_setup, label_count
from balora_jax.training.chips import GIB
from balora_jax.training.setup import TrainSetup
from balora_jax.training.sharding import (
    AXES,
    are_of_all,
    check_batch,
    check_processes,
    make_mesh,
    tree_shardings,
)

# The part of a device's memory that weights, adapters and the optimizer's state may take: the rest
# is for what an update computes.
SHARE = 0.5


class _Kernel(NamedTuple):
    """A kernel of the layers.

    Attributes:
      name: its path, joined by dots.
      shape: of the stack.
      axes: the mesh axes of its rows and of its columns.
    """

    name: str
    shape: tuple[int, ...]
    axes: tuple[Any, Any]

    def is_divided(self, axis: str, size: int) -> bool:
        """Return True if an axis of a size divides the dimension that it is to divide."""
        sizes = [
            length for length, own in zip(self.shape[-2:], self.axes, strict=True) if own == axis
        ]
        return all(length % size == 0 for length in sizes)


def described_model(config: RunConfig) -> Any:
    """Return the model of a run, without weights.

    Args:
      config: the run.

    Raises:
      BadInput: the model's configuration cannot be used.
    """
    return models.load_model(
        config.model.source,
        task=config.model.task,
        dtype="float32" if config.method == "full" else config.model.dtype,
        num_labels=label_count(config),
        revision=config.model.revision,
    )


def run_mesh(
    config: RunConfig, devices: Sequence[jax.Device], limit: int | None
) -> tuple[Mesh, str | None]:
    """Make the mesh of a run, and check that it divides the batch and the model.

    Args:
      config: the run; under mesh.auto the sizes of the axes are chosen.
      devices: which need not be present.
      limit: bytes of memory of a device; None if that is not known.

    Returns:
      The mesh, and a sentence on why it was chosen; None where it was not.

    Raises:
      BadInput: the sizes do not fit the devices, the batch or the model.
    """
    note = None
    if config.mesh.auto:
        sizes, note = _choose(config, devices, limit)
        mesh = make_mesh(sizes, devices)
    else:
        mesh = make_mesh(config.mesh, devices)
        check_processes(mesh)
        if mesh.shape["fsdp"] > 1 or mesh.shape["tensor"] > 1:
            _check_kernels(_kernels(described_model(config)), mesh)
    check_batch(mesh, config.training.batch_size, config.training.accumulation)
    return mesh, note


def _kernels(model: Any) -> list[_Kernel]:
    kernels = []
    for path, leaf in traverse_util.flatten_dict(models.abstract_params(model)).items():
        if path[-1] == "kernel" and leaf.ndim > 2:
            rules = model.sharding_rules
            axes = next(axes for pattern, axes in rules if re.search(pattern, "/".join(path)))
            kernels.append(_Kernel(".".join(path), leaf.shape, axes))
    return kernels


def _choose(
    config: RunConfig, devices: Sequence[jax.Device], limit: int | None
) -> tuple[MeshConfig, str]:
    """Choose the sizes with which the devices send least, among those with which the state fits."""
    model = described_model(config)
    candidates = possible_meshes(config, model, devices)
    alone = make_mesh(MeshConfig(data=1), devices[:1])
    setup = build_setup(config, model, alone, steps=1)
    if not candidates:
        raise BadInput(
            f"mesh.auto finds no mesh that divides training.batch_size "
            f"{config.training.batch_size} / training.accumulation {config.training.accumulation} "
            f"and the model's kernels over all processes; accepted: a multiple of their devices, "
            f"{len(devices)}"
        )
    needed = [_state_bytes(setup, make_mesh(sizes, devices)) for sizes in candidates]
    enough = [i for i, size in enumerate(needed) if limit is None or size <= SHARE * limit]
    chosen = enough[0] if enough else needed.index(min(needed))
    before = None if chosen == 0 else (candidates[0], needed[0])
    return candidates[chosen], _reason(candidates[chosen], needed[chosen], limit, before, devices)


def _reason(
    sizes: MeshConfig,
    needed: int,
    limit: int | None,
    before: tuple[MeshConfig, int] | None,
    devices: Sequence[jax.Device],
) -> str:
    """Say why the sizes of a mesh were chosen, in place of others that need more memory."""
    parts = [f"weights, adapters and optimizer take {needed / GIB:.2f} GiB"]
    if limit is not None:
        parts[0] += f" of a device's {limit / GIB:.1f} GiB"
    if before is not None:
        others, more = before
        parts.append(f"and with {_in_words(others)} would take {more / GIB:.2f}")
    idle = len(devices) - sizes.data * sizes.fsdp * sizes.tensor
    if idle:
        parts.append(
            f"and {idle} of {len(devices)} devices are idle, because batch and kernels cannot be "
            "divided over more"
        )
    return f"mesh.auto takes {_in_words(sizes)}: {', '.join(parts)}"


def _in_words(sizes: MeshConfig) -> str:
    return " x ".join(f"{axis} {getattr(sizes, axis)}" for axis in AXES)


def possible_meshes(
    config: RunConfig, model: Any, devices: Sequence[jax.Device]
) -> list[MeshConfig]:
    """List the meshes that divide batch and kernels, from those whose devices send least.

    Devices that divide the batch alone send the gradients of adapters, those that divide weights
    send these too, and those that divide matrices send activations. As many devices as can be are
    busy; of several processes each has some of them.

    Args:
      config: the run.
      model: the Linen module.
      devices: which need not be present.
    """
    kernels = _kernels(model)
    micro = config.training.batch_size // config.training.accumulation

    def divided(axis: str, size: int) -> bool:
        return all(kernel.is_divided(axis, size) for kernel in kernels)

    for used in range(len(devices), 0, -1):
        found = [
            MeshConfig(data=used // tensor // fsdp, fsdp=fsdp, tensor=tensor)
            for tensor in _divisors(used)
            for fsdp in _divisors(used // tensor)
            if micro % (used // tensor) == 0 and divided("fsdp", fsdp) and divided("tensor", tensor)
        ]
        if found and are_of_all(devices[:used]):
            return found
    return []


def _divisors(number: int) -> list[int]:
    return [size for size in range(1, number + 1) if number % size == 0]


def _state_bytes(setup: TrainSetup, mesh: Mesh) -> int:
    """The bytes of a run's weights and state on one device of a mesh."""
    total = 0
    for tree in (setup.state, setup.frozen):
        shardings = tree_shardings(mesh, tree, setup.model.sharding_rules)
        for leaf, sharding in zip(jax.tree.leaves(tree), jax.tree.leaves(shardings), strict=True):
            total += math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    return total


def _check_kernels(kernels: Sequence[_Kernel], mesh: Mesh) -> None:
    """Check that the axes divide the kernels: else every device would hold the whole of one.

    Raises:
      BadInput: one does not.
    """
    for axis in ("fsdp", "tensor"):
        size = mesh.shape[axis]
        undivided = [kernel for kernel in kernels if not kernel.is_divided(axis, size)]
        if undivided:
            fitting = [
                smaller
                for smaller in range(1, size)
                if all(kernel.is_divided(axis, smaller) for kernel in kernels)
            ]
            raise BadInput(
                f"mesh.{axis} {size} does not divide {undivided[0].name} of shape "
                f"{list(undivided[0].shape)}; accepted: a size that divides it, such as "
                f"{fitting[-1]}"
            )
