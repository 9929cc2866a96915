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
) -> RewindPoint:
    """Find the smallest drift that keeps nearly all of what was learned.

    Of the points whose loss is at most the least one plus `tolerance` of what fine-tuning gained
    (the loss at scale 0 minus the least), the one with the smallest drift.

    Args:
      curve: from `rewind`, with a point at scale 0.
      loss: the measures of a point -> the task's loss; lower is better.
      drift: the name of the drift; lower is better.
      tolerance: the share of the gain that may be given up, 0 to 1.

    Returns:
      The point.

    Raises:
      ValueError: the curve has no point at scale 0.
    """
    start = next((point for point in curve.points if point.scale == 0), None)
    if start is None:
        raise ValueError("the curve has no point at scale 0; accepted: scales with 0")
    losses = [loss(point.measures) for point in curve.points]
    least = min(losses)
    allowed = least + tolerance * (loss(start.measures) - least)
    kept = [point for point, value in zip(curve.points, losses, strict=True) if value <= allowed]
    return min(kept, key=lambda point: point.measures[drift])
