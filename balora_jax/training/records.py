"""The records of metrics.jsonl: an update's numbers, a held-out evaluation, a probe."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from balora_jax.errors import Diverged

WEIGHT = "weight_"
UNSETTLED = "unsettled_"
HELD_OUT = "eval_"
PROBE = "probe_"
LARGEST_STEP = 10**9


@dataclass(frozen=True)
class StepRecord:
    """The numbers of one update.

    Attributes:
      step: updates done, this one included.
      loss: the weighted sum of task and terms.
      task: L_task.
      terms: every term that acts, unweighted, by name.
      weights: the weight of each in force.
      learning_rate: of this update.
      gradient_norm: the global norm, before clipping.
      tokens: tokens of the batch.
      tokens_per_second: of this update.
      response_tokens: tokens that the loss counts; None for classifiers.
      unsettled: of each SVD term by subspace, the share of its groups whose rounds ended before
        they had converged, by name.
      memory_host: bytes of the host's memory that the process had then; None if unknown.
      memory_device_peak: the most bytes that a device had in use until then; None if unknown.
    """

    step: int
    loss: float
    task: float
    terms: dict[str, float]
    weights: dict[str, float]
    learning_rate: float
    gradient_norm: float
    tokens: float
    tokens_per_second: float
    response_tokens: float | None = None
    unsettled: dict[str, float] = field(default_factory=dict)
    memory_host: int | None = None
    memory_device_peak: int | None = None

    @classmethod
    def of_metrics(
        cls,
        step: int,
        metrics: Mapping[str, float],
        seconds: float,
        memory: Mapping[str, int | None] | None = None,
    ) -> "StepRecord":
        """The record of what a step returns.

        Args:
          step: updates done.
          metrics: as `make_train_step`'s step returns them, as Python numbers.
          seconds: time the update took.
          memory: the record's memory_host and memory_device_peak.
        """
        speed = metrics["tokens"] / seconds
        return cls.of_json({"step": step, **metrics, "tokens_per_second": speed, **(memory or {})})

    @classmethod
    def of_json(cls, values: Mapping[str, float]) -> "StepRecord":
        """The record that a line of metrics.jsonl holds."""
        weights = _without_prefix(WEIGHT, values)
        return cls(
            step=int(values["step"]),
            loss=values["loss"],
            task=values["task"],
            terms={name: values[name] for name in weights},
            weights=weights,
            learning_rate=values["learning_rate"],
            gradient_norm=values["gradient_norm"],
            tokens=values["tokens"],
            tokens_per_second=values["tokens_per_second"],
            response_tokens=values.get("response_tokens"),
            unsettled=_without_prefix(UNSETTLED, values),
            memory_host=values.get("memory_host"),
            memory_device_peak=values.get("memory_device_peak"),
        )

    def to_json(self) -> dict[str, float]:
        """The record as a flat object."""
        measured = {
            "response_tokens": self.response_tokens,
            "memory_host": self.memory_host,
            "memory_device_peak": self.memory_device_peak,
        }
        return {
            "step": self.step,
            **_prefixed(WEIGHT, self.weights),
            **_prefixed(UNSETTLED, self.unsettled),
            **self.terms,
            **{name: value for name, value in measured.items() if value is not None},
            "gradient_norm": self.gradient_norm,
            "learning_rate": self.learning_rate,
            "loss": self.loss,
            "task": self.task,
            "tokens": self.tokens,
            "tokens_per_second": self.tokens_per_second,
        }


@dataclass(frozen=True)
class HeldOutRecord:
    """A held-out evaluation.

    Attributes:
      step: updates done.
      loss: the mean held-out loss.
      metrics: the task's metrics by name.
    """

    step: int
    loss: float
    metrics: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of_measures(cls, step: int, measures: Mapping[str, float]) -> "HeldOutRecord":
        """The record of what an Evaluator returns: `loss` and metrics by name."""
        metrics = {name: value for name, value in measures.items() if name != "loss"}
        return cls(step, measures["loss"], metrics)

    @classmethod
    def of_json(cls, values: Mapping[str, float]) -> "HeldOutRecord":
        """The record that a line of metrics.jsonl holds."""
        return cls.of_measures(int(values["step"]), _without_prefix(HELD_OUT, values))

    @property
    def measures(self) -> dict[str, float]:
        """The loss and the metrics by name."""
        return {"loss": self.loss, **self.metrics}

    def to_json(self) -> dict[str, float]:
        """The record as a flat object."""
        return {"step": self.step, **_prefixed(HELD_OUT, self.measures)}


@dataclass(frozen=True)
class ProbeRecord:
    """The findings of probes.

    Attributes:
      step: updates done.
      findings: a number for each probe, by name.
    """

    step: int
    findings: dict[str, float]

    @classmethod
    def of_json(cls, values: Mapping[str, float]) -> "ProbeRecord":
        """The record that a line of metrics.jsonl holds."""
        return cls(step=int(values["step"]), findings=_without_prefix(PROBE, values))

    def to_json(self) -> dict[str, float]:
        """The record as a flat object."""
        return {"step": self.step, **_prefixed(PROBE, self.findings)}


Record = StepRecord | HeldOutRecord | ProbeRecord


def parse_record(values: Mapping[str, float]) -> Record:
    """Turn an object of metrics.jsonl into its record, whose type its keys show.

    Raises:
      ValueError: a value is no number, or the step no whole one.
      TypeError: it is no object.
    """
    if not isinstance(values, dict):
        raise TypeError("it is no object")
    for name, value in values.items():
        # A metric may be NaN, such as the correlation with scores that are all the same.
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{name} is {value!r:.50} and no number")
    if not isinstance(values["step"], int) or abs(values["step"]) > LARGEST_STEP:
        raise ValueError(f"step is {values['step']!r:.50} and no number of updates")
    if "loss" in values:
        return StepRecord.of_json(values)
    if f"{HELD_OUT}loss" in values:
        return HeldOutRecord.of_json(values)
    return ProbeRecord.of_json(values)


def check_finite(record: StepRecord) -> None:
    """Raise Diverged, naming the step and the parts, if the loss or a gradient is not finite."""
    if math.isfinite(record.loss) and math.isfinite(record.gradient_norm):
        return
    numbers = {
        "loss": record.loss,
        "task": record.task,
        **record.terms,
        "gradient_norm": record.gradient_norm,
    }
    parts = ", ".join(f"{name} {value:.4g}" for name, value in numbers.items())
    raise Diverged(
        f"the loss is not finite at step {record.step}: {parts}; the last good checkpoint is kept"
    )


def _prefixed(prefix: str, values: Mapping[str, float]) -> dict[str, float]:
    return {f"{prefix}{name}": value for name, value in values.items()}


def _without_prefix(prefix: str, values: Mapping[str, float]) -> dict[str, float]:
    return {
        name.removeprefix(prefix): value
        for name, value in values.items()
        if name.startswith(prefix)
    }
