"""The device mesh, and the processes of several hosts."""

import re
from dataclasses import dataclass, replace
from typing import Self

from balora_jax.config.check import require

MOST_PROCESSES = 100_000
# A day.
LONGEST_WAIT = 24 * 3600


@dataclass(frozen=True)
class AxesConfig:
    """The axes of the device mesh."""

    data: int = -1
    """Devices that divide the batch."""
    fsdp: int = 1
    """Devices that divide the batch, the weights and the optimizer's state."""
    tensor: int = 1
    """Devices that divide each matrix."""
    auto: bool = False
    """Choose the sizes of the axes by the devices, the model and the batch, and say why."""

    def __post_init__(self) -> None:
        for axis in ("data", "fsdp", "tensor"):
            value = getattr(self, axis)
            size_ok = value == -1 or value >= 1
            require(size_ok, f"mesh.{axis}", value, "-1 or a whole number of at least 1")
        left = [axis for axis in ("data", "fsdp", "tensor") if getattr(self, axis) == -1]
        first = f"mesh.{left[0]}" if left else "mesh"
        require(len(left) <= 1, first, -1, f"-1 on one axis, and not on {' and '.join(left)}")
        is_default = (self.data, self.fsdp, self.tensor) == (-1, 1, 1)
        accepted = "false, or true without mesh.data, mesh.fsdp and mesh.tensor"
        require(is_default or not self.auto, "mesh.auto", self.auto, accepted)


@dataclass(frozen=True)
class HostsConfig:
    """The processes of several hosts, which do one command together."""

    distributed: bool = False
    """Join the other hosts first, where a TPU pod slice, SLURM, Open MPI or Kubernetes says who
    they are (jax.distributed.initialize). The same command runs on every host."""
    coordinator: str | None = None
    """Where nothing says it: HOST:PORT of process 0, the same in every process."""
    processes: int | None = None
    """With coordinator: how many processes there are."""
    process_id: int | None = None
    """With coordinator: which of them this is, from 0; the only option that differs."""
    wait: int = 60
    """Seconds until processes that have not come are given up; more where hosts start far apart."""

    def __post_init__(self) -> None:
        wait_ok = 1 <= self.wait <= LONGEST_WAIT
        require(wait_ok, "mesh.wait", self.wait, f"1 to {LONGEST_WAIT:,} seconds")
        self._check_processes()

    def _check_processes(self) -> None:
        """Check that the processes are described as a whole, or not at all."""
        names = ("coordinator", "processes", "process_id")
        given = [name for name in names if getattr(self, name) is not None]
        if not given:
            return
        complete = len(given) == len(names)
        accepted = "null, or with all of mesh.coordinator, mesh.processes and mesh.process_id"
        require(complete, f"mesh.{given[0]}", getattr(self, given[0]), accepted)
        host, _, port = self.coordinator.rpartition(":")
        host_ok = re.fullmatch(r"[^\s:/]+|\[[0-9a-fA-F:]+\]", host)
        port_ok = re.fullmatch(r"[1-9]\d{0,4}", port) and int(port) < 2**16
        accepted = "HOST:PORT, such as 10.0.0.2:8476"
        require(bool(host_ok and port_ok), "mesh.coordinator", self.coordinator, accepted)
        count_ok = 1 <= self.processes <= MOST_PROCESSES
        require(count_ok, "mesh.processes", self.processes, f"1 to {MOST_PROCESSES}")
        id_ok = 0 <= self.process_id < self.processes
        accepted = f"0 to {self.processes - 1}, as mesh.processes is {self.processes}"
        require(id_ok, "mesh.process_id", self.process_id, accepted)

    @property
    def shared(self) -> Self:
        """The options that are the same in every process."""
        return self if self.process_id is None else replace(self, process_id=0)

    @property
    def joins(self) -> bool:
        """True if there are other processes to join."""
        return self.distributed or self.coordinator is not None


# Of the fields those of the last base come first.
@dataclass(frozen=True)
class MeshConfig(HostsConfig, AxesConfig):
    """The device mesh; -1 on at most one axis gives it all remaining devices."""

    def __post_init__(self) -> None:
        AxesConfig.__post_init__(self)
        HostsConfig.__post_init__(self)
