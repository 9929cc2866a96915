"""The options of `balora plan`."""

import re
from dataclasses import dataclass

from balora_jax.config.check import require
from balora_jax.config.run import RunConfig
from balora_jax.errors import BadInput

# Devices that a plan may be for, by the beginning of --topology; the numbers follow.
TPUS = ("v4", "v5e", "v5p", "v6e")
GPUS = ("a100", "h100", "h200")
TOPOLOGY = re.compile(
    rf"(?P<tpu>{'|'.join(TPUS)}):(?P<shape>[1-9]\d{{0,3}}(x[1-9]\d{{0,3}}){{1,2}})"
    rf"|(?P<gpu>{'|'.join(GPUS)}):(?P<count>[1-9]\d{{0,4}})"
)
MOST_DEVICES = 512
# The options that are not the run's.
OWN = ("topology", "devices", "json", "help")


@dataclass(frozen=True)
class PlanOptions:
    """The options of `balora plan`, beside those of the run."""

    run: RunConfig
    """The run; its data are not read."""
    topology: str | None = None
    """What it is to run on: a TPU slice (v4:2x2x1, v5e:4x4, v5p:4x4x4, v6e:4x4), compiled for by
    TPU's own compiler (extra tpu), or GPUs (a100:8, h100:8, h200:8), estimated; null for CPUs."""
    devices: int | None = None
    """Without a topology: plan for so many devices like this machine's CPU, 1 to 512."""
    json: bool = False
    """Print one JSON object."""

    def __post_init__(self) -> None:
        topology_ok = self.topology is None or TOPOLOGY.fullmatch(self.topology)
        accepted = (
            f"a TPU slice of {', '.join(TPUS)} such as v5e:4x4 or v5p:4x4x4, or GPUs of "
            f"{', '.join(GPUS)} such as h100:8"
        )
        require(bool(topology_ok), "--topology", self.topology, accepted)
        devices_ok = self.devices is None or 1 <= self.devices <= MOST_DEVICES
        require(devices_ok, "--devices", self.devices, f"1 to {MOST_DEVICES}")
        accepted = f"at most {MOST_DEVICES} GPUs"
        require(self.host_devices <= MOST_DEVICES, "--topology", self.topology, accepted)
        if self.topology is not None and self.devices is not None:
            raise BadInput("--topology and --devices are both given; accepted: one of the two")

    @property
    def chip(self) -> str | None:
        """The name of the accelerator; None for CPUs."""
        return None if self.topology is None else self.topology.partition(":")[0]

    @property
    def is_tpu(self) -> bool:
        """True if TPU's compiler is needed."""
        return self.chip in TPUS

    @property
    def host_devices(self) -> int:
        """The CPU devices to compile for where that is not done for the accelerator itself."""
        if self.topology is None:
            return self.devices or 1
        found = TOPOLOGY.fullmatch(self.topology)
        return int(found["count"]) if found["gpu"] else 1
