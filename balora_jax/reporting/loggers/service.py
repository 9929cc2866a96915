"""The interface of the services that a run's numbers are sent to, each in a module of its own."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from balora_jax.config import RunConfig
from balora_jax.training.metrics import Outcome
from balora_jax.training.run_folder import RunFolder, flatten

# A record's step and its numbers by name.
Entry = tuple[int, Mapping[str, float]]
# A run's name at a service and what else finds it there, as loggers.json keeps it.
Identity = dict[str, str]
# The project at every service, unless its own environment variable names another.
PROJECT = "balora-jax"


class Service(Protocol):
    """A run at a service; its methods are called from one thread, and may raise anything."""

    def send(self, entries: Sequence[Entry]) -> None:
        """Send records; after an exception the same ones are sent again."""
        ...

    def finish(self, outcome: Outcome, summary: Mapping[str, Any] | None) -> None:
        """End the run there, with the content of summary.json if it has finished."""
        ...


class Start(NamedTuple):
    """The start of a run at a service.

    Attributes:
      folder: the run folder.
      config: the configuration of the run.
      identity: what an earlier start has kept; None for the first.
      keep: writes the identity into the run folder.
    """

    folder: RunFolder
    config: RunConfig
    identity: Identity | None
    keep: Callable[[Identity], None]

    @property
    def title(self) -> str:
        """The name that people read: that of the run folder."""
        return self.folder.path.resolve().name


def summary_values(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Name the values of a summary apart from those of the records.

        summary_values({"steps": 9, "metrics": {"f1": 0.5}})  ->
            {"summary/steps": 9, "summary/metrics.f1": 0.5}

    Args:
      summary: the content of summary.json.
    """
    return {f"summary/{name}": value for name, value in flatten(dict(summary)).items()}


def summary_numbers(summary: Mapping[str, Any]) -> dict[str, float]:
    """Name the numbers of a summary as `summary_values` does, and leave out the rest.

    Args:
      summary: the content of summary.json.
    """
    values = summary_values(summary).items()
    return {name: value for name, value in values if isinstance(value, int | float)}
