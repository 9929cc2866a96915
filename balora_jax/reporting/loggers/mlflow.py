"""MLflow: a run on the server, in the database or in the folder that MLFLOW_TRACKING_URI names."""

import dataclasses
import os
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import mlflow
from mlflow.entities import Metric, Param

from balora_jax.errors import BadInput, first_line
from balora_jax.reporting.loggers.service import PROJECT, Entry, Start, summary_numbers
from balora_jax.training.metrics import Outcome
from balora_jax.training.run_folder import flatten

# MLflow's limits for one request, and for a parameter's text.
MOST_METRICS = 1000
MOST_PARAMETERS = 100
LONGEST_PARAMETER = 6000
STATUSES = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
# In every record of an update.
LOSS = "loss"


def check() -> None:
    """Check nothing: MLflow needs no key, and a server that wants one says so at the start."""


class MLflow:
    """A run at MLflow."""

    def __init__(self, start: Start) -> None:
        """Create the run, or go on in it.

        Args:
          start: the run folder, its configuration, and the run's id that an earlier start has kept.

        Raises:
          BadInput: the run of that id is not there.
        """
        self._client = mlflow.MlflowClient()
        # The last step that MLflow has; the next ones are sent.
        self._last = -1
        if start.identity is None:
            self._id = self._create(start)
            start.keep({"run_id": self._id})
        else:
            self._id = start.identity["run_id"]
            self._go_on()

    def _create(self, start: Start) -> str:
        created = self._client.create_run(
            self._experiment(), run_name=start.title, tags={"mlflow.source.name": "balora-jax"}
        )
        run_id = created.info.run_id
        options = flatten(dataclasses.asdict(start.config)).items()
        parameters = [Param(_name(name), str(value)[:LONGEST_PARAMETER]) for name, value in options]
        for first in range(0, len(parameters), MOST_PARAMETERS):
            self._client.log_batch(run_id, params=parameters[first : first + MOST_PARAMETERS])
        return run_id

    def _experiment(self) -> str:
        if "MLFLOW_EXPERIMENT_ID" in os.environ:
            return os.environ["MLFLOW_EXPERIMENT_ID"]
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self._client.get_experiment_by_name(name)
        return found.experiment_id if found else self._client.create_experiment(name)

    def _go_on(self) -> None:
        try:
            self._client.update_run(self._id, status="RUNNING")
        except mlflow.exceptions.MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            raise BadInput(
                f"loggers.json names the MLflow run {self._id}, which {mlflow.get_tracking_uri()} "
                f"does not have ({first_line(error)}); accepted: the MLFLOW_TRACKING_URI of the "
                "run's start, or no loggers.json, for a new MLflow run"
            ) from error
        history = self._client.get_metric_history(self._id, LOSS)
        self._last = max((metric.step for metric in history), default=-1)

    def send(self, entries: Sequence[Entry]) -> None:
        """Send records in as few requests as possible; those that MLflow has are left out."""
        now = int(time.time() * 1000)
        metrics = [
            Metric(_name(name), float(value), now, step)
            for step, values in entries
            for name, value in values.items()
            if step > self._last
        ]
        for first in range(0, len(metrics), MOST_METRICS):
            self._client.log_batch(self._id, metrics=metrics[first : first + MOST_METRICS])

    def finish(self, outcome: Outcome, summary: Mapping[str, Any] | None) -> None:
        """Add the summary's numbers as metrics and end the run."""
        if summary is not None:
            self._last = -1
            self.send([(int(summary["steps"]), summary_numbers(summary))])
        self._client.set_terminated(self._id, status=STATUSES[outcome])


def _name(name: str) -> str:
    """A name with the characters that MLflow takes."""
    return re.sub(r"[^\w\-. /]", "_", name, flags=re.ASCII)
