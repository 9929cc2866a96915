"""summary.json: the outcome of a run."""

import dataclasses
from typing import Any

from balora_jax.training.records import HeldOutRecord, ProbeRecord, Record, StepRecord


@dataclasses.dataclass(frozen=True)
class Summary:
    """The outcome of a run; the fields of summary.json.

    Attributes:
      method: ba-lora, pissa, lora or full.
      model: model.source.
      steps: updates made.
      step_kept: the update whose weights are exported.
      parameters_trained: numbers that were trained.
      parameters_frozen: numbers of the base that were not.
      loss_first: the training loss of the first update.
      loss_last: of the last.
      eval_loss_first: the held-out loss before the first update; None without a held-out set.
      eval_loss_last: the held-out loss of the exported weights.
      metrics: their held-out metrics.
      metrics_ood: their metrics on out-of-domain sets.
      score: how good they are, higher is better; None without a held-out set.
      probes: each probe's findings before and after.
      terms: each regularizer that acted: its unweighted value at the first and the last update.
      tokens_per_second: the median over updates, of all tokens but padding.
      counted_tokens_per_second: the same of tokens that the loss counts; None for classifiers.
      utilization: floating-point operations, 4 P a token for adapters or 6 P for all weights, and
        2 P for a teacher, as a share of the devices' bfloat16 peak; None if that is not known.
      seconds_by_kind: seconds of the process that ended the run by what they went to: compile,
        data, step, evaluation, save; the rest is loading and exporting.
      lengths_compiled: lengths of batches that the step was compiled for.
      compile_seconds: time that took.
      device_bytes: memory that a device needs at most.
      seconds: the whole run's.
      memory_host_peak: the most bytes of the host's memory after an update; None if unknown.
      memory_device_peak: the most bytes that a device had in use; None if unknown.
    """

    method: str
    model: str
    steps: int
    step_kept: int
    parameters_trained: int
    parameters_frozen: int
    loss_first: float
    loss_last: float
    eval_loss_first: float | None
    eval_loss_last: float | None
    metrics: dict[str, float]
    metrics_ood: dict[str, float]
    score: float | None
    probes: dict[str, list[float]]
    terms: dict[str, list[float]]
    tokens_per_second: float
    lengths_compiled: list[int]
    compile_seconds: float
    device_bytes: int
    seconds: float
    counted_tokens_per_second: float | None = None
    utilization: float | None = None
    seconds_by_kind: dict[str, float] = dataclasses.field(default_factory=dict)
    memory_host_peak: int | None = None
    memory_device_peak: int | None = None

    def to_json(self) -> dict[str, Any]:
        """The summary as an object."""
        return dataclasses.asdict(self)

    @classmethod
    def of_json(cls, values: dict[str, Any]) -> "Summary":
        """The summary that summary.json holds; one of version 0.1 had no terms."""
        known = {field.name for field in dataclasses.fields(cls)}
        return cls(**{"terms": {}} | {name: v for name, v in values.items() if name in known})


@dataclasses.dataclass(frozen=True)
class History:
    """A run's records by kind, in order.

    Attributes:
      steps: of the updates.
      held_out: of held-out evaluations.
      probes: of probes.
    """

    steps: list[StepRecord]
    held_out: list[HeldOutRecord]
    probes: list[ProbeRecord]

    @classmethod
    def of(cls, records: list[Record]) -> "History":
        """Sort records by kind."""

        def of_kind(kind: type) -> list:
            return [record for record in records if isinstance(record, kind)]

        return cls(of_kind(StepRecord), of_kind(HeldOutRecord), of_kind(ProbeRecord))
