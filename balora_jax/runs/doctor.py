"""A check of this machine: installed packages, devices, and a few training steps as a self-test."""

import importlib.metadata
import pathlib
import platform
import shutil
import time

import jax
import numpy as np
from rich.console import Console
from rich.table import Table
from transformers import LlamaConfig

from balora_jax import models
from balora_jax.config import (
    AdapterConfig,
    DataConfig,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    OutputConfig,
    RunConfig,
    TrainingConfig,
)
from balora_jax.data import Batch
from balora_jax.errors import BadInput
from balora_jax.models.decoder.config import decoder_config
from balora_jax.models.decoder.model import Decoder
from balora_jax.reporting.console import plain_console
from balora_jax.runs.setup import build_setup
from balora_jax.runs.weights import materialize
from balora_jax.training.compiled_step import CompiledStep
from balora_jax.training.sharding import make_mesh

REQUIRED = (
    "balora-jax",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "transformers",
    "datasets",
    "grain",
)
OPTIONAL = ("torch", "peft", "libtpu", "jax-cuda12-plugin", "jax-cuda13-plugin")
STEPS = 5


def diagnose(console: Console | None = None) -> None:
    """Print the installed versions and the devices, and run the self-test.

    Args:
      console: where to print; standard output by default.

    Raises:
      BadInput: jax cannot start its accelerator, or the loss rises in the self-test. The message
        names the remedy.
    """
    console = console or plain_console()
    console.print(_versions())
    _show_devices(console)

    start = time.monotonic()
    losses = self_test()
    seconds = time.monotonic() - start
    change = f"{losses[0]:.4f} to {losses[-1]:.4f}"
    if not losses[-1] < losses[0]:
        raise BadInput(f"the self-test's loss rose from {change}: reinstall jax and jaxlib")
    console.print(
        f"self-test: adapter, regularizers and step work; loss {change} in {STEPS} steps, "
        f"{seconds:.1f} s",
        highlight=False,
    )


def _show_devices(console: Console) -> None:
    try:
        devices = jax.devices()
    except (RuntimeError, AssertionError) as error:
        # jax raises an AssertionError if the plugin of a requested platform is not installed.
        reason = (str(error) or "its plugin is not installed").splitlines()[0]
        raise BadInput(
            f"jax cannot start its accelerator ({reason}); "
            f"use JAX_PLATFORMS=cpu, or a full install ({_install_command()})"
        ) from error
    for device in devices:
        console.print(
            f"device {device.id}: {device.device_kind} ({device.platform}), {_memory(device)}",
            highlight=False,
        )
    if devices[0].platform == "cpu":
        console.print(
            f"for this machine's accelerator: {_install_command()}", highlight=False, markup=False
        )


def self_test() -> list[float]:
    """Train a tiny random Llama with BA-LoRA on one batch of random tokens.

    Returns:
      The task loss at each step, in nats per token.
    """
    llama = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    config = RunConfig(
        model=ModelConfig(source="random"),
        adapter=AdapterConfig(rank=4, targets="all-linear", init="pissa"),
        data=DataConfig(train="random"),
        optimizer=OptimizerConfig(learning_rate=1e-2, warmup=0.0),
        training=TrainingConfig(steps=STEPS, batch_size=4, precision="float32"),
        mesh=MeshConfig(data=1),
        output=OutputConfig(dir="none"),
    )
    model = Decoder(decoder_config(llama))
    setup = build_setup(config, model, make_mesh(config.mesh), steps=STEPS)
    base = models.init_params(model, jax.random.key(0))
    student, state = materialize(config, setup, base)
    compiled = CompiledStep(setup)

    tokens = np.random.default_rng(0).integers(0, 64, size=(4, 32), dtype=np.int32)
    mask = np.ones(tokens.shape, bool)
    mask[:, -1] = False
    batch = Batch(
        input_ids=tokens,
        attention_mask=np.ones_like(mask),
        targets=np.roll(tokens, -1, axis=-1),
        mask=mask,
    )
    losses = []
    for _ in range(STEPS):
        state, metrics = compiled(state, student.frozen, batch)
        losses.append(float(metrics["task"]))
    return losses


def _versions() -> Table:
    """The installed version of every package that matters."""
    table = Table(
        "package", "version", title=f"Python {platform.python_version()} on {platform.machine()}"
    )
    for name in (*REQUIRED, *OPTIONAL):
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            version = "not installed (optional)" if name in OPTIONAL else "MISSING"
        table.add_row(name, version)
    return table


def _memory(device: jax.Device) -> str:
    """The memory of a device in words; the machine's for a CPU."""
    stats = device.memory_stats()
    if stats and "bytes_limit" in stats:
        return f"{stats['bytes_limit'] / 2**30:.1f} GiB"
    memory = pathlib.Path("/proc/meminfo")
    if device.platform == "cpu" and memory.is_file():
        total = next(
            line for line in memory.read_text().splitlines() if line.startswith("MemTotal")
        )
        return f"{int(total.split()[1]) / 2**20:.1f} GiB of the machine's memory"
    return "memory unknown"


def _install_command() -> str:
    """The install command for the accelerator that this machine seems to have."""
    if pathlib.Path("/dev/accel0").exists() or pathlib.Path("/dev/vfio/0").exists():
        return "pip install 'balora-jax[tpu]'"
    if shutil.which("nvidia-smi") or pathlib.Path("/dev/nvidia0").exists():
        return "pip install 'balora-jax[cuda13]' (or [cuda12] for an older driver)"
    return "none found; pip install 'balora-jax[tpu]', [cuda12] or [cuda13] where there is one"
