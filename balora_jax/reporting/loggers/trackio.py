"""trackio: a run in its local database (TRACKIO_DIR), or in a Space of the hub."""

import dataclasses
import os
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import trackio

from balora_jax.reporting.loggers.service import PROJECT, Entry, Start, summary_numbers
from balora_jax.training.metrics import Outcome


def check() -> None:
    """Check nothing: trackio's database is local unless its environment variables say otherwise."""


class Trackio:
    """A run at trackio, which knows it by its name: that has an id of its own in it."""

    def __init__(self, start: Start) -> None:
        """Begin the run, or go on in it.

        Args:
          start: the run folder, its configuration, and the name that an earlier start has kept.
        """
        identity = start.identity
        if identity is None:
            project = os.environ.get("TRACKIO_PROJECT", PROJECT)
            identity = {"name": f"{start.title}-{secrets.token_hex(3)}", "project": project}
            start.keep(identity)
        self._run = trackio.init(
            project=identity["project"],
            name=identity["name"],
            resume="allow",
            config=dataclasses.asdict(start.config),
            embed=False,
        )

    def send(self, entries: Sequence[Entry]) -> None:
        """Send records."""
        for step, values in entries:
            self._run.log(dict(values), step=step)

    def finish(self, outcome: Outcome, summary: Mapping[str, Any] | None) -> None:
        """Add the summary's numbers and end the run."""
        if summary is not None:
            self._run.log(summary_numbers(summary), step=int(summary["steps"]))
        self._run.finish()
