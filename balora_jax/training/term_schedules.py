"""The regularizers' weights over a run, as the configuration describes them."""

from collections.abc import Callable, Mapping

import jax

from balora_jax.config import TermConfig
from balora_jax.objective.schedules import Schedule, Weights, weight_schedule


def section_schedule(section: TermConfig, steps: int) -> Schedule:
    """The schedule that a term's section of the configuration describes."""
    return weight_schedule(
        section.weight,
        section.schedule,
        steps,
        final=section.final,
        delay=section.delay,
        ramp=section.ramp,
        warmup=section.warmup,
    )


def weights_at(
    sections: Mapping[str, TermConfig], steps: int
) -> Callable[[int | jax.Array], Weights]:
    """The weights of all terms that act, as a function of the step.

    Args:
      sections: the configuration of every term that acts, by name.
      steps: updates in the run.

    Returns:
      step [] -> a float32 scalar for each name.
    """
    schedules = {name: section_schedule(section, steps) for name, section in sections.items()}
    return lambda step: {name: schedule(step) for name, schedule in schedules.items()}
