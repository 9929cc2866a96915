"""Weights & Biases: a run there, online or (WANDB_MODE=offline) in files of the run folder."""

import dataclasses
import os
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import wandb

from balora_jax.errors import BadInput
from balora_jax.reporting.loggers.service import PROJECT, Entry, Start, summary_values
from balora_jax.training.metrics import Outcome

# Seconds that the end of a run waits for the upload. What is left stays in wandb/ of the run
# folder, for `wandb sync`.
PATIENCE = 60
EXIT_CODES = {"finished": 0, "stopped": 0, "failed": 1}


def check() -> None:
    """Raise BadInput if W&B needs a key and has none; nothing is sent."""
    if wandb.setup().settings.mode != "online":
        return
    if not wandb.login(prompt=False):
        raise BadInput(
            "output.loggers has wandb, and there is no key for its server; accepted: `wandb login` "
            "first, WANDB_API_KEY in the environment, or WANDB_MODE=offline"
        )


class WandB:
    """A run at W&B, whose id is chosen here, so that a killed start is no other run."""

    def __init__(self, start: Start) -> None:
        """Begin the run, or go on in it.

        Args:
          start: the run folder, its configuration, and the id that an earlier start has kept.
        """
        identity = start.identity
        if identity is None:
            project = os.environ.get("WANDB_PROJECT", PROJECT)
            identity = {"id": secrets.token_hex(4), "project": project}
            start.keep(identity)
        self._run = wandb.init(
            project=identity["project"],
            id=identity["id"],
            name=start.title,
            resume="allow",
            dir=os.environ.get("WANDB_DIR", str(start.folder.path)),
            config=dataclasses.asdict(start.config),
            settings=wandb.Settings(console="off", finish_timeout=PATIENCE),
        )
        # Those that W&B has; it would drop them with a warning each.
        self._next = self._run.step

    def send(self, entries: Sequence[Entry]) -> None:
        """Send the records of steps that W&B does not have."""
        for step, values in entries:
            if step >= self._next:
                self._run.log(dict(values), step=step)

    def finish(self, outcome: Outcome, summary: Mapping[str, Any] | None) -> None:
        """Add the summary and wait for the upload."""
        if summary is not None:
            self._run.summary.update(summary_values(summary))
        self._run.finish(exit_code=EXIT_CODES[outcome])
