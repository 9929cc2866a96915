"""The processes of a run on several hosts: joining, waiting for each other, agreeing on a stop."""

import collections
import contextlib
import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from balora_jax.config.mesh import HostsConfig
from balora_jax.errors import BadInput, reason_of
from balora_jax.hosts import on_host

# Seconds until a process that does not answer any more is given up.
SILENT = 30
# Process 0 writes the outputs while the others wait for it, and a process that dies is noticed.
LEAVING = 24 * 3600
ACCEPTED = (
    "accepted: a TPU pod slice, SLURM or Open MPI, false, or mesh.coordinator (the address of "
    "process 0, which all hosts reach), mesh.processes (as many as are started) and "
    "mesh.process_id (another one in each)"
)


def join(config: HostsConfig) -> None:
    """Join the other processes; nothing may have asked jax for its devices before.

    Args:
      config: says where process 0 is, how many there are and which one this is, or nothing, where a
        cluster says it. A process that has joined them stays with them.

    Raises:
      BadInput: they are not found, or have not as many devices as this one.
    """
    if jax.distributed.is_initialized():
        return
    waiting = threading.Timer(config.wait, _give_up, [config])
    waiting.daemon = True
    waiting.start()
    try:
        jax.distributed.initialize(
            config.coordinator,
            config.processes,
            config.process_id,
            # jax ends the process with a trace of its own, which comes too late.
            initialization_timeout=2 * config.wait,
            heartbeat_timeout_seconds=SILENT,
            shutdown_timeout_seconds=LEAVING,
        )
    except (ValueError, RuntimeError) as error:
        raise BadInput(f"{_not_found(config)} ({reason_of(error)}); {ACCEPTED}") from error
    finally:
        waiting.cancel()
    _check_devices()


def _check_devices() -> None:
    """Check that each process has as many devices as the others, which jax needs to exchange."""
    counts = collections.Counter(device.process_index for device in jax.devices())
    most, least = max(counts, key=counts.get), min(counts, key=counts.get)
    if counts[most] != counts[least]:
        raise BadInput(
            f"process {most} has {counts[most]} devices and process {least} has {counts[least]}; "
            "accepted: the same number in every process"
        )


def are_joined() -> bool:
    """Return True if this process is one of several."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def _not_found(config: HostsConfig) -> str:
    if config.coordinator is None:
        return "mesh.distributed is true, and the other processes cannot be found"
    return f"the {config.processes} processes of the run did not meet at {config.coordinator}"


def _give_up(config: HostsConfig) -> None:
    """End the process with a sentence: jax would end it, with none."""
    sentence = (
        f"balora: {_not_found(config)} within {config.wait} seconds; {ACCEPTED}, and mesh.wait for "
        "more seconds\n"
    )
    os.write(2, sentence.encode())
    os._exit(2)


def is_first() -> bool:
    """Return True in the process that writes, which is the only one on one host."""
    return jax.process_index() == 0


def place() -> str:
    """Say which process this is, in one that prints nothing else."""
    return f"process {jax.process_index()} of {jax.process_count()}: process 0 prints and writes"


def wait_for_all(reason: str) -> None:
    """Wait until every process of the run is here.

    Args:
      reason: what for; the same in every process.
    """
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(reason)


def require_same(parts: Mapping[str, Any]) -> None:
    """Check that every process of the run has the same inputs.

    Args:
      parts: what must be the same, by its name; the same names in every process.

    Raises:
      BadInput: in every process, if one differs.
    """
    if jax.process_count() == 1:
        return
    digests = [hashlib.sha256(repr(part).encode()).digest() for part in parts.values()]
    own = np.frombuffer(b"".join(digests), np.uint8).reshape(len(parts), -1)
    of_all = multihost_utils.process_allgather(own)
    for number, name in enumerate(parts):
        differs = (of_all[:, number] != of_all[0, number]).any(axis=-1)
        if differs.any():
            raise BadInput(
                f"the processes have not the same {name}: process "
                f"{np.flatnonzero(differs)[0]} differs from process 0; accepted: the same command, "
                "package and files on every host"
            )


def require_everywhere(holds: bool, otherwise: str) -> None:
    """Check what must hold in every process of the run.

    Args:
      holds: whether it holds in this process.
      otherwise: the message if it does not hold in one.

    Raises:
      BadInput: in every process, if it does not hold in one.
    """
    if not (holds if jax.process_count() == 1 else _all_hold(holds)):
        raise BadInput(otherwise)


@contextlib.contextmanager
def together(otherwise: str) -> Iterator[None]:
    """Let every process of the run refuse, if one does; all enter and leave.

    Args:
      otherwise: the message of those that do not know why.

    Raises:
      BadInput: of this process, or of another one.
    """
    fault = None
    try:
        yield
    except BadInput as error:
        fault = error
    require_everywhere(fault is None, otherwise if fault is None else str(fault))


def _all_hold(holds: bool) -> bool:
    return bool(multihost_utils.process_allgather(np.array(holds)).all())


def of_first(content: bytes) -> bytes:
    """Return what process 0 has, in every process.

    Args:
      content: of this process.
    """
    if jax.process_count() == 1:
        return content
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(content))))
    if size == 0:
        return b""
    own = np.frombuffer(content, np.uint8) if is_first() else np.zeros(size, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(own), np.uint8).tobytes()


def on_first_host(tree: Any) -> Any:
    """Return the whole arrays of a tree in process 0, and None for each in the others.

    Args:
      tree: of arrays, which may be divided over devices; the same in every process.
    """

    def whole(leaf: Any) -> Any:
        array = on_host(leaf)
        return array if is_first() else None

    return jax.tree.map(whole, tree)


def share_out(
    items: Sequence[Any], digest_all: Callable[[Sequence[Any]], list[bytes]]
) -> list[bytes]:
    """Digest every item in one of the processes, and give the digests to all of them.

    Args:
      items: the same in every process.
      digest_all: computes a digest of 32 bytes of each of some items.

    Returns:
      The digests, in order.
    """
    count, index = jax.process_count(), jax.process_index()
    if count == 1:
        return digest_all(items)
    own = np.zeros((len(items), 32), np.uint8)
    for number, digest in enumerate(digest_all(items[index::count])):
        own[index + number * count] = np.frombuffer(digest, np.uint8)
    of_all = multihost_utils.process_allgather(own)
    return [of_all[number % count, number].tobytes() for number in range(len(items))]


def least(number: int | None) -> int | None:
    """Return the smallest number that any process of the run has.

    Args:
      number: of this process; None where it is not known.

    Returns:
      The smallest of those that are known; None if none is.
    """
    if jax.process_count() == 1:
        return number
    own = np.float32(np.inf if number is None else number)
    smallest = multihost_utils.process_allgather(own).min()
    return int(smallest) if np.isfinite(smallest) else None


class Agreement:
    """A number that the processes of a run agree on: the largest that any of them has.

    They agree on the devices, beside the updates, so that no host waits: what was asked in one
    update is read in the next.
    """

    def __init__(self, number: Callable[[], int]) -> None:
        """Agree on nothing yet.

        Args:
          number: of this process, at least 0.
        """
        self._number = number
        self._asked: jax.Array | None = None
        if jax.process_count() > 1:
            devices = jax.devices()
            mesh = jax.make_mesh(
                (len(devices),), ("all",), axis_types=(AxisType.Auto,), devices=devices
            )
            self._divided = NamedSharding(mesh, P("all"))
            self._largest = jax.jit(jnp.max, out_shardings=NamedSharding(mesh, P()))

    def next(self) -> int:
        """Return the largest number of the call before, of all processes; each must call it."""
        if jax.process_count() == 1:
            return self._number()
        before = self._asked
        own = np.full(jax.device_count(), self._number(), np.int32)
        numbers = jax.make_array_from_callback(own.shape, self._divided, lambda index: own[index])
        self._asked = self._largest(numbers)
        return 0 if before is None else int(before)
