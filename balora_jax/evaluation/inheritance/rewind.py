"""The rewind curve: a fine-tuned model with a part of its change, measured without training."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from balora_jax.adapters import scale_change

Tree = Any
SCALES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25)


@dataclasses.dataclass(frozen=True)
class RewindPoint:
    """The measures at one scale.

    Attributes:
      scale: the part of the learned change, 0 (the base) to 1 (the fine-tuned model) and beyond.
      measures: numbers by name.
    """

    scale: float
    measures: dict[str, float]


@dataclasses.dataclass(frozen=True)
class RewindCurve:
    """The measures at all scales, in ascending order of the scale.

    Attributes:
      points: one for each scale.
    """

    points: tuple[RewindPoint, ...]

    def to_json(self) -> list[dict[str, Any]]:
        """The points as objects."""
        return [dataclasses.asdict(point) for point in self.points]


def rewind(
    measure: Callable[[Tree], Mapping[str, float]],
    lora: Tree,
    scales: Sequence[float] = SCALES,
) -> RewindCurve:
    """Measure a model at parts of its learned change.

    Args:
      measure: the `lora` collection -> numbers by name.
      lora: the `lora` collection of the change of the untouched base, from `Student.delta_lora`.
      scales: the parts.

    Returns:
      The curve.
    """
    points = [
        RewindPoint(scale, dict(measure(scale_change(lora, scale)))) for scale in sorted(scales)
    ]
    return RewindCurve(tuple(points))


def best_trade_off(
    curve: RewindCurve,
    *,
    loss: Callable[[Mapping[str, float]], float],
    drift: str,
    tolerance: float = 0.1,
) -> RewindPoint | None:
    """Find the smallest drift that keeps nearly all of what was learned.

    Of the points that keep 1 - `tolerance` of what fine-tuning gained (the loss at scale 0 minus
    that at scale 1), the one with the smallest drift.

    Args:
      curve: from `rewind`, with points at the scales 0 and 1.
      loss: the measures of a point -> the task's loss; lower is better.
      drift: the name of the drift; lower is better.
      tolerance: the share of the gain that may be given up, 0 to 1.

    Returns:
      The point; None where fine-tuning gained nothing.

    Raises:
      ValueError: the curve has no point at scale 0, or none at scale 1.
    """
    losses = {point.scale: loss(point.measures) for point in curve.points}
    if not losses.keys() >= {0, 1}:
        raise ValueError(f"the curve has the scales {list(losses)}; accepted: some with 0 and 1")
    gain = losses[0] - losses[1]
    if gain <= 0:
        return None
    allowed = losses[1] + tolerance * gain
    kept = [point for point in curve.points if losses[point.scale] <= allowed]
    return min(kept, key=lambda point: point.measures[drift])
