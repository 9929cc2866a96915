"""The update, compiled with the least recomputation that the devices have memory for."""

import dataclasses
from collections.abc import Callable

import jax
from rich.console import Console

from balora_jax.config import RunConfig
from balora_jax.data import Batch
from balora_jax.errors import is_out_of_device_memory
from balora_jax.reporting.console import show_note
from balora_jax.training.chips import GIB
from balora_jax.training.compiled_step import CompiledStep
from balora_jax.training.setup import TrainSetup
from balora_jax.training.times import Times

AUTO = "auto"
# From the fewest operations to the least memory.
POLICIES = ("none", "dots", "full")
# The part of a device's memory that an update may take; evaluation and programs need some too.
SHARE = 0.9


def compile_update(
    config: RunConfig,
    setup: TrainSetup,
    build: Callable[[RunConfig], TrainSetup],
    batch: Batch,
    times: Times,
    console: Console,
    limit: int | None,
) -> CompiledStep:
    """Compile the update of a run; under training.remat auto with the cheapest policy that fits.

    Whether one fits is decided by the memory that a device has in all, not by what is free at the
    moment, so that a resumed run decides the same.

    Args:
      config: the run.
      setup: its setup, under auto with the first policy.
      build: makes the setup of a configuration, for the other policies.
      batch: shapes of the run's longest batches, [examples, ...].
      times: counts the time in which a program was waited for.
      console: where to print which policy was taken, and whether the update may not fit.
      limit: the memory of a device in bytes, the least of all processes; None if it is not known.

    Returns:
      The compiled update, with its setup.
    """
    policies = POLICIES if config.training.remat == AUTO else (config.training.remat,)
    for policy in policies:
        if policy != setup.model.remat:
            training = dataclasses.replace(config.training, remat=policy)
            setup = build(dataclasses.replace(config, training=training))
        compiled = CompiledStep(setup, config.training.accumulation, times)
        try:
            compiled.compile(batch)
        except jax.errors.JaxRuntimeError as error:
            # Compilers for TPUs refuse what does not fit.
            if not is_out_of_device_memory(error) or policy == policies[-1]:
                raise
            continue
        if limit is None or compiled.bytes <= SHARE * limit:
            break
    if policy != policies[0]:
        show_note(
            console,
            f"training.remat auto takes {policy}: with less recomputation the update does not fit "
            "the memory of a device",
        )
    if limit is not None and compiled.bytes > SHARE * limit:
        show_note(
            console,
            f"the update needs {compiled.bytes / GIB:.1f} GiB of a device's {limit / GIB:.1f}, and "
            "may not fit: raise training.accumulation, or reduce training.batch_size or "
            "data.max_length",
        )
    return compiled
