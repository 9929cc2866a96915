"""balora doctor: what is installed, what jax finds, and whether adapter, regularizers and step work here."""

import importlib.metadata
import pathlib
import platform
import shutil
import time

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.table import Table
from transformers import LlamaConfig

from balora_jax import adapters, models
from balora_jax.objective import streamed
from balora_jax.adapters import AdapterSpec
from balora_jax.config import OptimizerConfig, RegularizersConfig
from balora_jax.data import Batch
from balora_jax.errors import BadInput
from balora_jax.models.decoder.model import Decoder
from balora_jax.models.decoder.config import decoder_config
from balora_jax.objective.schedules import weights_at
from balora_jax.objective import causal_lm
from balora_jax.training.optimizer import learning_rate, make_optimizer
from balora_jax.training.state import init_state, partition, trainable_mask
from balora_jax.training.step import make_train_step, token_weighted

NEEDED = ("balora-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "transformers", "datasets", "grain")
EXTRAS = ("torch", "peft", "libtpu", "jax-cuda12-plugin", "jax-cuda13-plugin")
STEPS = 5


def diagnose(console: Console | None = None) -> None:
    """Prints the report.

    Raises:
      BadInput: jax cannot start its accelerator, or the self-test fails; says what to do.
    """
    console = console or Console()
    console.print(_versions())
    try:
        devices = jax.devices()
    except (RuntimeError, AssertionError) as error:
        # jax asserts where a platform is asked for whose plugin is not installed.
        reason = (str(error) or "its plugin is not installed").splitlines()[0]
        raise BadInput(
            f"jax cannot start its accelerator ({reason}); use JAX_PLATFORMS=cpu, or a full install ({_install()})"
        ) from error
    for device in devices:
        console.print(
            f"device {device.id}: {device.device_kind} ({device.platform}), {_memory(device)}", highlight=False
        )
    if devices[0].platform == "cpu":
        console.print(f"for this machine's accelerator: {_install()}", highlight=False, markup=False)
    began = time.monotonic()
    losses = self_test()
    if not losses[-1] < losses[0]:
        raise BadInput(f"the self-test's loss rose from {losses[0]:.4f} to {losses[-1]:.4f}: reinstall jax and jaxlib")
    console.print(
        f"self-test: adapter, regularizers and step work; loss {losses[0]:.4f} to {losses[-1]:.4f} in {STEPS} steps, "
        f"{time.monotonic() - began:.1f} s",
        highlight=False,
    )


def self_test() -> list[float]:
    """The losses of a few BA-LoRA steps of a tiny random Llama on random tokens."""
    sizes = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    model = Decoder(decoder_config(sizes))
    base = models.init_params(model, jax.random.key(0))
    paths = adapters.match_targets("all-linear", base)
    start = adapters.init_pissa(base, paths, 4, key=jax.random.key(1))
    factor = {"head": streamed.head_factor(models.head(model, base))}
    params = {"base": base, "adapters": start, "initial": start, "factor": factor}
    mask = trainable_mask(params, method="ba-lora")
    trainable, frozen = partition(params, mask)
    config = OptimizerConfig(learning_rate=1e-2, warmup=0.0)
    optimizer, terms = make_optimizer(config, STEPS, mask), RegularizersConfig()
    loss = causal_lm.make_loss(model, AdapterSpec(4), terms)
    rate = learning_rate(config, STEPS)
    step = jax.jit(make_train_step(token_weighted(loss), optimizer, mask, weights_at(terms, STEPS), rate))
    tokens = jax.random.randint(jax.random.key(2), (1, 4, 32), 0, 64)
    counted = jnp.ones_like(tokens, bool).at[..., -1].set(False)
    targets = jnp.roll(tokens, -1, axis=-1)
    batch = Batch(tokens, attention_mask=jnp.ones_like(counted), targets=targets, mask=counted)
    state, losses = init_state(trainable, optimizer, seed=0), []
    for _ in range(STEPS):
        state, report = step(state, frozen, batch)
        losses.append(float(report["task"]))
    return losses


def _versions() -> Table:
    table = Table("package", "version", title=f"Python {platform.python_version()} on {platform.machine()}")
    for name in (*NEEDED, *EXTRAS):
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            version = "not installed (optional)" if name in EXTRAS else "MISSING"
        table.add_row(name, version)
    return table


def _memory(device: jax.Device) -> str:
    stats = device.memory_stats()
    if stats and "bytes_limit" in stats:
        return f"{stats['bytes_limit'] / 2**30:.1f} GiB"
    memory = pathlib.Path("/proc/meminfo")
    if device.platform == "cpu" and memory.is_file():
        total = next(line for line in memory.read_text().splitlines() if line.startswith("MemTotal"))
        return f"{int(total.split()[1]) / 2**20:.1f} GiB of the machine's memory"
    return "memory unknown"


def _install() -> str:
    """The command for the accelerator that this machine seems to have."""
    if pathlib.Path("/dev/accel0").exists() or pathlib.Path("/dev/vfio/0").exists():
        return "pip install 'balora-jax[tpu]'"
    if shutil.which("nvidia-smi") or pathlib.Path("/dev/nvidia0").exists():
        return "pip install 'balora-jax[cuda13]' (or [cuda12] for an older driver)"
    return "none found; pip install 'balora-jax[tpu]', [cuda12] or [cuda13] where there is one"
