"""The devices that a plan is for, described by the compiler; none of them need be there."""

import os

import jax
from jax.experimental import topologies

from balora_jax.config.plan import PlanOptions
from balora_jax.errors import BadInput, reason_of


def planned_devices(options: PlanOptions) -> list[jax.Device]:
    """Return the devices to compile for.

    Nothing may have asked jax for devices before. GPUs have no compiler here: as many CPU devices
    stand in for them.

    Args:
      options: the command's.

    Returns:
      Devices that programs can be compiled for.

    Raises:
      BadInput: TPU's compiler is not installed, or knows no such slice.
    """
    # The weights of no run are placed, and an accelerator that is here is not waited for.
    jax.config.update("jax_platforms", "cpu")
    if not options.is_tpu:
        jax.config.update("jax_num_cpu_devices", options.host_devices)
        return jax.devices()[: options.host_devices]
    # Else libtpu asks a metadata server for the description of the machine.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-16")
    try:
        described = topologies.get_topology_desc(platform="tpu", topology_name=options.topology)
    except Exception as error:  # the compiler raises anything for a slice that it does not know
        reason = reason_of(error)
        if "libtpu" in reason.lower() or "not installed" in reason.lower():
            raise BadInput(
                f"--topology {options.topology} needs TPU's compiler, which is not here ({reason});"
                ' accepted: pip install "balora-jax[tpu]", or GPUs such as h100:8, or --devices N'
            ) from error
        raise BadInput(
            f"--topology {options.topology} is no slice that TPU's compiler knows ({reason}); "
            "accepted: one that can be rented, such as v5e:2x4, v5e:4x4, v5p:2x2x4, v6e:4x4"
        ) from error
    return list(described.devices)
