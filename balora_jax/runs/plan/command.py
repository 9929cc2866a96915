"""`balora plan`: what a run's update takes on devices that need not be there."""

import json
import sys
from typing import NamedTuple

import yaml
from rich.console import Console

from balora_jax import models
from balora_jax.config import RunConfig
from balora_jax.config.plan import PlanOptions
from balora_jax.reporting.console import phase, plain_console, show_note
from balora_jax.runs.mesh import described_model, possible_meshes, run_mesh
from balora_jax.runs.plan.attempt import Attempt, attempt
from balora_jax.runs.plan.estimate import Estimate, estimate, gibibytes
from balora_jax.runs.plan.remedies import changes, remedies, without_auto
from balora_jax.runs.plan.report import show
from balora_jax.runs.plan.topology import planned_devices
from balora_jax.runs.run import check_lengths
from balora_jax.training.chips import CHIPS
from balora_jax.training.memory import device_bytes
from balora_jax.training.sharding import make_mesh


def plan(options: PlanOptions, console: Console | None = None) -> None:
    """Print what the update of a run takes, and what to change if it does not fit.

    Args:
      options: the command's.
      console: where to print; standard output by default.

    Raises:
      BadInput: the model, the mesh or the topology cannot be used.
    """
    console = console or plain_console()
    # What is read by programs must be alone on standard output.
    progress = Console(file=sys.stderr) if options.json else console
    tried = _try_until_one_fits(options, progress)
    first = tried[0]
    asked = first
    last = tried[-1]
    change = changes(options.run, asked.attempt.config, last.attempt.config)
    if not change:
        # The run takes by itself what fits.
        asked = last
    if options.json:
        answer = {"plan": asked.estimate.to_json()}
        if asked.estimate.fits is False:
            fitting = {"change": change, "plan": last.estimate.to_json()}
            answer["fitting"] = fitting if last.estimate.fits else None
        print(json.dumps(answer, indent=2))
        return
    show(console, asked.estimate)
    if asked.estimate.fits is not False:
        return
    if last.estimate.fits is False:
        sizes = [f"{_named(first, one)} ({gibibytes(one.estimate.memory_total)})" for one in tried]
        console.print(f"\nNothing that was tried fits: {'; '.join(sizes)}", highlight=False)
        console.print("A shorter data.max_length, a lower rank or more devices would take less.")
        return
    console.print("\nIt fits with\n", highlight=False)
    console.print(yaml.safe_dump(change, sort_keys=False), highlight=False)
    show(console, last.estimate)


class Tried(NamedTuple):
    """An update that was compiled, and what it costs."""

    attempt: Attempt
    estimate: Estimate


def _try_until_one_fits(options: PlanOptions, progress: Console) -> list[Tried]:
    """Compile the update as it is asked for, and with one remedy after the other until it fits."""
    devices = planned_devices(options)
    limit = CHIPS[options.chip].bytes if options.chip else device_bytes(devices[0])
    mesh, note = run_mesh(options.run, devices, limit)
    if note is not None:
        show_note(progress, note)
    config = without_auto(options.run, mesh)
    models.check_attention(config.model.attention, mesh)
    model = described_model(config)
    length = config.data.max_length
    check_lengths(model.config.max_length, length)
    sizes = possible_meshes(config, model, devices)
    tried: list[Tried] = []
    for candidate in (config, *remedies(config, mesh, sizes)):
        mesh = make_mesh(candidate.mesh, devices)
        count = "1 device" if mesh.size == 1 else f"{mesh.size} devices"
        how = ", ".join(_words(config, candidate))
        with phase(progress, f"compiling for {count}{', ' if how else ''}{how}"):
            compiled = attempt(candidate, model, mesh, length)
        tried.append(Tried(compiled, estimate(options, compiled, length)))
        if tried[-1].estimate.fits is not False:
            break
    return tried


def _named(first: Tried, tried: Tried) -> str:
    """The changes that were made for an update, in words."""
    return ", ".join(_words(first.attempt.config, tried.attempt.config)) or "as it is"


def _words(before: RunConfig, after: RunConfig) -> list[str]:
    return [
        f"{section}.{name} {value}"
        for section, listed in changes(before, before, after).items()
        for name, value in listed.items()
    ]
