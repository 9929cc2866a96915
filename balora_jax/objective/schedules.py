"""l(t): how a regularizer's weight changes over a run, as optax-style schedules (functions of the step)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from balora_jax.config import RegularizersConfig, TermConfig

Schedule = Callable[[int | jax.Array], jax.Array]


def _rise(progress: jax.Array, start: float, length: float) -> jax.Array:
    """0 until start, then straight up to 1 over length; a jump at start when length is 0."""
    if length == 0:
        return jnp.where(progress >= start, 1.0, 0.0)
    return jnp.clip((progress - start) / length, 0.0, 1.0)


def _cosine(term: TermConfig, progress: jax.Array) -> jax.Array:
    return term.final + (1 - term.final) * 0.5 * (
        1 + jnp.cos(jnp.pi * jnp.clip(progress, 0.0, 1.0))
    )


# Shares of the weight. Adaptive is all of it here: the objective scales it by the teacher's confidence.
_SHARES = {
    "constant": lambda term, progress: jnp.ones_like(progress),
    "adaptive": lambda term, progress: jnp.ones_like(progress),
    "cosine": _cosine,
    "two-phase": lambda term, progress: _rise(progress, term.delay, term.ramp),
    "linear": lambda term, progress: _rise(progress, 0.0, term.warmup),
    "quadratic": lambda term, progress: jnp.square(_rise(progress, 0.0, term.warmup)),
}


def weight_schedule(term: TermConfig, steps: int) -> Schedule:
    """One term's weight as a function of the step.

    The schedules of BA-LoRA's official run (its PyTorch code): constant; cosine from the weight to
    `final` of it; two-phase, 0 for `delay` of the steps and then a linear ramp over `ramp` of them; linear
    and quadratic warm-up over `warmup` of them.

    Args:
      term: the weight, the schedule's name and its shares.
      steps: updates in the run.

    Returns:
      step [] -> weight [], float32.
    """
    share = _SHARES[term.schedule]

    def schedule(step: int | jax.Array) -> jax.Array:
        progress = jnp.asarray(step, jnp.float32) / steps
        return jnp.asarray(term.weight * share(term, progress), jnp.float32)

    return schedule


def weights_at(
    terms: RegularizersConfig, steps: int
) -> Callable[[int | jax.Array], dict[str, jax.Array]]:
    """The weights of all terms that act, as a function of the step.

    Args:
      terms: the three regularizers.
      steps: updates in the run.

    Returns:
      step [] -> {"consistency", "diversity", "svd": [] float32}, without the terms whose weight is 0.
    """
    named = {name: getattr(terms, name) for name in ("consistency", "diversity", "svd")}
    schedules = {
        name: weight_schedule(term, steps) for name, term in named.items() if term.weight > 0
    }
    return lambda step: {name: schedule(step) for name, schedule in schedules.items()}


def adaptive(
    weight: jax.Array, final: float, teacher_entropy: jax.Array, classes: int
) -> jax.Array:
    """More weight where the teacher is sure: min + (max - min)(1 - H_teacher / log V).

    Args:
      weight: [], max.
      final: min / max.
      teacher_entropy: [], H_teacher in nats, mean over the valid tokens, of the softmax at temperature 1.
      classes: V.

    Returns:
      [], float32, from final * weight to weight. With one class the teacher is sure.
    """
    spread = (
        teacher_entropy / jnp.log(float(classes))
        if classes > 1
        else jnp.zeros_like(teacher_entropy)
    )
    return weight * (final + (1 - final) * (1 - spread))
