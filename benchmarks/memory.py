"""Memory of the compiled training step, from shapes alone: cross-entropy against BA-LoRA.

On a TPU that need not be present (needs the extra tpu), or on this host:

    python -m benchmarks.memory --topology v5e:4x4
    python -m benchmarks.memory --models small --length 256 --rank 32 --dtype float32 --remat none

Prints a table and writes benchmarks/results/memory_PLACE.json. The sizes are those of one device,
as planned by the compiler.
"""

import argparse
import os

LINE = (
    "{model:14} {objective:14} temporaries {temporaries_gb:7.3f} GB  "
    "arguments {arguments_gb:7.3f} GB  compiled in {seconds:5.1f} s  {ratio:.3f} x cross-entropy"
)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=["llama-2-7b", "gemma-7b"])
    parser.add_argument(
        "--topology", help="a TPU topology to compile for, such as v5e:4x4; this host by default"
    )
    parser.add_argument("--batch", type=int, default=4, help="examples a device")
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--rank", type=int, default=128)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--remat", default="full")
    options = parser.parse_args()
    # Without these libtpu asks a metadata server for the description of the machine.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-16")
    from benchmarks import measure

    rows = [row for name in options.models for row in compare(name, options)]
    place = "host" if options.topology is None else options.topology.replace(":", "-")
    measure.write(f"memory_{place}", {"options": vars(options), "rows": rows})


def compare(name: str, options: argparse.Namespace) -> list[dict]:
    """Compile a model's step with the cross-entropy alone, then with BA-LoRA.

    Args:
      name: the model, one of `sizes.CONFIGS`.
      options: the command line's.

    Returns:
      A row for each objective; temporaries and arguments in GB a device.
    """
    from balora_jax.runs.setup import batch_shapes, build_setup
    from benchmarks import sizes

    mesh, devices = _mesh(options.topology)
    rows = []
    for objective, regularized in {"cross-entropy": False, "ba-lora": True}.items():
        model = sizes.make_model(name, dtype=options.dtype)
        config = sizes.make_config(
            name,
            rank=options.rank,
            batch=options.batch * devices,
            dtype=options.dtype,
            remat=options.remat,
            regularized=regularized,
        )
        setup = build_setup(config, model, mesh, steps=sizes.STEPS)
        numbers = _compile(setup, batch_shapes(config, model, options.length))
        rows.append({"model": name, "objective": objective, **numbers})
        ratio = rows[-1]["temporaries_gb"] / rows[0]["temporaries_gb"]
        print(LINE.format(**rows[-1], ratio=ratio), flush=True)
    return rows


def _mesh(topology: str | None):
    """The mesh of a topology, or of this host, and its number of devices."""
    import jax

    from balora_jax.config import MeshConfig
    from balora_jax.training.sharding import make_mesh

    if topology is None:
        return make_mesh(MeshConfig(data=1, fsdp=-1)), jax.device_count()
    from jax.experimental import topologies

    devices = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    return make_mesh(MeshConfig(data=1, fsdp=-1), devices), len(devices)


def _compile(setup, batch) -> dict:
    """Compile a step and return the memory of its program and the time of compilation."""
    from balora_jax.training.compiled_step import CompiledStep

    compiled = CompiledStep(setup)
    memory = compiled.compile(batch).memory_analysis()
    return {
        "temporaries_gb": memory.temp_size_in_bytes / 1e9,
        "arguments_gb": memory.argument_size_in_bytes / 1e9,
        "seconds": compiled.seconds,
    }


if __name__ == "__main__":
    main()
