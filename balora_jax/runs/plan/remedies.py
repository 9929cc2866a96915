"""Changes of a run whose update does not fit, from the cheapest to the dearest."""

import dataclasses
from collections.abc import Iterator, Sequence

from jax.sharding import Mesh

from balora_jax.config import MeshConfig, RunConfig
from balora_jax.runs.remat import AUTO, POLICIES
from balora_jax.training.sharding import AXES


def remedies(config: RunConfig, mesh: Mesh, sizes: Sequence[MeshConfig]) -> Iterator[RunConfig]:
    """Change one thing after the other, and keep each change.

    More recomputation; as many devices as can be on the axis that divides the weights; then
    micro-batches of half the size, down to one example a device.

    Args:
      config: the run, with its remat policy.
      mesh: its mesh.
      sizes: of meshes that divide the batch and the kernels.

    Yields:
      Configurations of less memory.
    """
    for policy in POLICIES[POLICIES.index(config.training.remat) + 1 :]:
        config = with_training(config, remat=policy)
        yield config
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    most = max(sizes, key=lambda size: size.fsdp, default=config.mesh)
    if most.fsdp > mesh.shape["fsdp"]:
        axes = {axis: getattr(most, axis) for axis in AXES}
        config = dataclasses.replace(config, mesh=dataclasses.replace(config.mesh, **axes))
        yield config
        shards = most.data * most.fsdp
    accumulation = 2 * config.training.accumulation
    while config.training.batch_size % (accumulation * shards) == 0:
        config = with_training(config, accumulation=accumulation)
        yield config
        accumulation *= 2


def with_training(config: RunConfig, **changes: object) -> RunConfig:
    """Change options of the section training.

    Args:
      config: the run.
      **changes: the options.
    """
    return dataclasses.replace(config, training=dataclasses.replace(config.training, **changes))


def without_auto(config: RunConfig, mesh: Mesh) -> RunConfig:
    """Take the first remat policy in place of auto, and the sizes of the mesh that auto chose.

    Args:
      config: the run.
      mesh: its mesh.
    """
    if config.mesh.auto:
        sizes = dataclasses.replace(config.mesh, auto=False, **mesh.shape)
        config = dataclasses.replace(config, mesh=sizes)
    return with_training(config, remat=POLICIES[0]) if config.training.remat == AUTO else config


def changes(asked: RunConfig, first: RunConfig, last: RunConfig) -> dict[str, dict[str, object]]:
    """List the options to change, by section; not a remat policy that auto takes by itself.

    Args:
      asked: the run as it is configured.
      first: the same, `without_auto`.
      last: the run that fits.
    """
    if asked.training.remat == AUTO:
        first = with_training(first, remat=last.training.remat)
    listed: dict[str, dict[str, object]] = {}
    for section in ("training", "mesh"):
        old = vars(getattr(first, section))
        new = vars(getattr(last, section))
        differing = {name: value for name, value in new.items() if value != old[name]}
        if differing:
            listed[section] = differing
    if "mesh" in listed and asked.mesh.auto:
        sizes = {axis: getattr(last.mesh, axis) for axis in AXES}
        listed["mesh"] = {"auto": False} | sizes
    return listed
