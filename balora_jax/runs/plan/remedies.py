"""Changes of a run whose update does not fit, from the cheapest to the dearest."""

import dataclasses
from collections.abc import Iterator

from jax.sharding import Mesh

from balora_jax.config import RunConfig
from balora_jax.runs.remat import AUTO, POLICIES


def remedies(config: RunConfig, mesh: Mesh, devices: int) -> Iterator[RunConfig]:
    """Change one thing after the other, and keep each change.

    More recomputation; all devices on the axis that divides the weights; micro-batches of half the
    size, down to one example a device.

    Args:
      config: the run, with its remat policy.
      mesh: its mesh.
      devices: how many there are.

    Yields:
      Configurations of less memory.
    """
    for policy in POLICIES[POLICIES.index(config.training.remat) + 1 :]:
        config = with_training(config, remat=policy)
        yield config
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    if mesh.shape["data"] > 1:
        sizes = dataclasses.replace(config.mesh, data=1, fsdp=devices // mesh.shape["tensor"])
        config = dataclasses.replace(config, mesh=sizes)
        yield config
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


def without_auto(config: RunConfig) -> RunConfig:
    """Take the first remat policy in place of auto.

    Args:
      config: the run.
    """
    return with_training(config, remat=POLICIES[0]) if config.training.remat == AUTO else config


def changes(before: RunConfig, after: RunConfig) -> dict[str, dict[str, object]]:
    """List the options that differ, by section; not a remat policy that auto takes by itself.

    Args:
      before: a run.
      after: another.
    """
    if before.training.remat == AUTO:
        before = with_training(before, remat=after.training.remat)
    listed: dict[str, dict[str, object]] = {}
    for section in ("training", "mesh"):
        old = vars(getattr(before, section))
        new = vars(getattr(after, section))
        differing = {name: value for name, value in new.items() if value != old[name]}
        if differing:
            listed[section] = differing
    return listed
