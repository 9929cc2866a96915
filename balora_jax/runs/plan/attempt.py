"""One way to run an update: its program, and whether that fits the memory of the devices."""

import math
import re
import time
from importlib.metadata import version
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from balora_jax.config import RunConfig
from balora_jax.errors import BadInput, is_out_of_device_memory, reason_of
from balora_jax.runs.setup import batch_shapes, build_setup
from balora_jax.training.collectives import bytes_sent
from balora_jax.training.compiled_step import CompiledStep
from balora_jax.training.operations import operations
from balora_jax.training.setup import TrainSetup

# What TPU's compiler says of a program that does not fit: Used 35.2G of 15.75G hbm.
USED = re.compile(r"Used (?P<number>[\d.]+)(?P<unit>[KMGT])i?B? of ")
UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class Bytes(NamedTuple):
    """The memory of one device, in bytes.

    Attributes:
      base: the frozen weights, with what is kept of step 0.
      trained: the trained weights.
      optimizer: the optimizer's state.
      batch: the update's examples.
      temporaries: what the update needs besides, at its peak.
    """

    base: int
    trained: int
    optimizer: int
    batch: int
    temporaries: int

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self)


class Attempt(NamedTuple):
    """An update that was compiled, or that the compiler refused.

    Attributes:
      config: the run, with its remat policy.
      setup: the update.
      bytes: of one device; of a program that was refused, the temporaries make up the total.
      operations: of all devices together.
      sent: bytes that a device sends by kind of collective; None if the program was refused.
      seconds: it took to compile.
    """

    config: RunConfig
    setup: TrainSetup
    bytes: Bytes
    operations: float
    sent: dict[str, float] | None
    seconds: float


def attempt(config: RunConfig, model: Any, mesh: Mesh, length: int) -> Attempt:
    """Compile an update for rows of one length.

    Args:
      config: the run; a remat policy of auto is none.
      model: the Linen module without weights.
      mesh: the devices.
      length: tokens of a row.

    Returns:
      The update and its costs.

    Raises:
      BadInput: a compiler of another version than jax's has compiled it.
    """
    began = time.monotonic()
    setup = build_setup(config, model, mesh, steps=config.training.steps or 1)
    compiled = CompiledStep(setup, config.training.accumulation)
    batch = batch_shapes(config, model, length, answer_length=length)
    shapes = compiled.shapes(batch)
    traced = compiled.trace(shapes)
    kept = Bytes(
        base=_bytes_of(setup.frozen),
        trained=_bytes_of(setup.state.trainable),
        optimizer=_bytes_of((setup.state.opt_state, setup.state.key, setup.state.step)),
        batch=_bytes_of(shapes),
        temporaries=0,
    )
    sent = None
    try:
        program = traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        found = USED.search(str(error))
        if not is_out_of_device_memory(error) or found is None:
            raise
        used = int(float(found["number"]) * UNITS[found["unit"]])
        temporaries = max(used - kept.total, 0)
    else:
        is_tpu = mesh.devices.flat[0].platform == "tpu"
        sent = bytes_sent(_text_of(program, is_tpu))
        temporaries = _temporaries(program.memory_analysis(), is_tpu)
    return Attempt(
        config,
        setup,
        kept._replace(temporaries=temporaries),
        operations(traced.jaxpr),
        sent,
        time.monotonic() - began,
    )


def _text_of(program: Any, is_tpu: bool) -> str:
    """A compiled program as text.

    Raises:
      BadInput: a compiler of another version has written it.
    """
    try:
        return program.as_text()
    except jax.errors.JaxRuntimeError as error:
        if not is_tpu:
            raise
        raise BadInput(
            f"the program of TPU's compiler cannot be read by jaxlib {version('jaxlib')} "
            f'({reason_of(error)}); accepted: the libtpu that belongs to it, pip install "jax[tpu]"'
        ) from error


def _temporaries(memory: Any, is_tpu: bool) -> int:
    """Memory that a program needs beside its arguments.

    TPU's compiler says what it needs at its peak, which is less than the sum of all temporaries;
    that for CPUs counts none of them there.
    """
    if is_tpu:
        return max(memory.peak_memory_in_bytes - memory.argument_size_in_bytes, 0)
    return memory.temp_size_in_bytes


def _bytes_of(tree: Any) -> int:
    """The bytes of a tree of shapes on one device."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )
