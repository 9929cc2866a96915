"""The costs of an update on a kind of device: the least time that its parts allow, and a run's."""

import dataclasses
from typing import Any

from balora_jax.config.plan import PlanOptions
from balora_jax.runs.plan.attempt import Attempt
from balora_jax.runs.remat import SHARE
from balora_jax.runs.setup import teacher_passes
from balora_jax.training.chips import CHIPS, GIB
from balora_jax.training.memory import device_bytes
from balora_jax.training.utilization import flops_per_token, multiplied_parameters


@dataclasses.dataclass(frozen=True)
class Estimate:
    """The costs of an update, of one device where it is not said otherwise.

    Attributes:
      device: its name.
      devices: how many there are.
      how: the compiler that said so.
      mesh: the sizes of the axes.
      remat: what the backward pass computes again.
      batch_size: examples of an update.
      accumulation: micro-batches of an update.
      length: tokens of a row.
      memory: bytes by what they hold.
      memory_total: their sum.
      memory_limit: bytes that a device has; None if that is not known.
      fits: whether there is room; None if that is not known.
      operations: of an update, on all devices.
      floor: operations of the layers' products alone, by the number of parameters.
      bytes_sent: in an update, by kind of collective; None for a program that was refused.
      seconds: the least time of an update by each bound: products, memory, and links but for a
        program that was refused; None where the device's speed is not known.
      tokens_per_second: at most, on all devices.
      utilization: at most: the layers' operations beside what the devices can do.
      run_hours: of the run's updates, at the least; None without training.steps.
      device_hours: likewise, of all devices together.
      compile_seconds: that compiling took here.
    """

    device: str
    devices: int
    how: str
    mesh: dict[str, int]
    remat: str
    batch_size: int
    accumulation: int
    length: int
    memory: dict[str, int]
    memory_total: int
    memory_limit: int | None
    fits: bool | None
    operations: float
    floor: float
    bytes_sent: dict[str, float] | None
    seconds: dict[str, float] | None
    tokens_per_second: float | None
    utilization: float | None
    run_hours: float | None
    device_hours: float | None
    compile_seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON has them."""
        return dataclasses.asdict(self)


def estimate(options: PlanOptions, tried: Attempt, length: int) -> Estimate:
    """Estimate what an update costs.

    The bounds are those of a roofline: the operations at the device's peak of bfloat16, every
    weight read once forward and once backward, and the bytes sent at the speed of its links. A real
    update takes longer than the largest of them.

    Args:
      options: the command's.
      tried: the compiled update.
      length: tokens of a row.
    """
    config = tried.config
    setup = tried.setup
    devices = setup.mesh.size
    chip = CHIPS[options.chip] if options.chip else None
    limit = chip.bytes if chip else device_bytes(setup.mesh.devices.flat[0])
    tokens = config.training.batch_size * length
    weights = (setup.frozen.base, setup.state.trainable.base)
    parameters = multiplied_parameters(setup.model, weights)
    teacher = teacher_passes(config, setup.terms)
    floor = tokens * flops_per_token(parameters, method=config.method, teacher=teacher)

    seconds = None
    if chip:
        # Forward and backward read the weights in every micro-batch; the teacher may go with them.
        reads = config.training.accumulation * 2 * (tried.bytes.base + tried.bytes.trained)
        seconds = {
            "products": tried.operations / (devices * chip.flops),
            "memory": reads / chip.bytes_a_second,
        }
        if tried.sent is not None:
            seconds["links"] = sum(tried.sent.values()) / chip.link_bytes_a_second
    least = max(seconds.values()) if seconds else None
    hours = None
    if least is not None and config.training.steps is not None:
        hours = config.training.steps * least / 3600
    return Estimate(
        device=options.chip or "cpu",
        devices=devices,
        how=_how(options),
        mesh=dict(setup.mesh.shape),
        remat=setup.model.remat,
        batch_size=config.training.batch_size,
        accumulation=config.training.accumulation,
        length=length,
        memory=tried.bytes._asdict(),
        memory_total=tried.bytes.total,
        memory_limit=limit,
        fits=None if limit is None else tried.bytes.total <= SHARE * limit,
        operations=tried.operations,
        floor=floor,
        bytes_sent=tried.sent,
        seconds=seconds,
        tokens_per_second=None if least is None else tokens / least,
        utilization=None if least is None else floor / (least * devices * chip.flops),
        run_hours=hours,
        device_hours=None if hours is None else devices * hours,
        compile_seconds=round(tried.seconds, 1),
    )


def _how(options: PlanOptions) -> str:
    if options.is_tpu:
        return "compiled by TPU's compiler"
    if options.chip:
        return "an estimate: there is no compiler for GPUs here, and CPUs stood in for them"
    return "compiled for CPUs"


def gibibytes(size: float) -> str:
    """Write a size in GiB."""
    return f"{size / GIB:.2f} GiB"
