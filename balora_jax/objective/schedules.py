"""l(t): a regularizer's weight over the steps of a run, as optax-style schedules."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from balora_jax.regularizers.terms import Terms

Schedule = Callable[[int | jax.Array], jax.Array]
Weights = dict[str, jax.Array]


def weight_schedule(
    weight: float,
    schedule: str,
    steps: int,
    *,
    final: float = 0.1,
    delay: float = 0.2,
    ramp: float = 0.05,
    warmup: float = 1.0,
) -> Schedule:
    """One term's weight as a function of the step.

    The schedules of BA-LoRA's official PyTorch code: constant; cosine from the weight to `final` of
    it; two-phase, 0 for `delay` of the steps and then a linear ramp over `ramp` of them; linear and
    quadratic warm-up over `warmup` of them. An adaptive weight is constant here: the objective
    scales it by the teacher's confidence (`effective_weights`).

    Args:
      weight: the weight at its largest.
      schedule: constant, adaptive, cosine, two-phase, linear or quadratic.
      steps: updates in the run.
      final: share of the weight that a cosine ends at.
      delay: share of the steps before a two-phase weight rises.
      ramp: share of the steps over which it rises.
      warmup: share of the steps over which a linear or quadratic weight rises.

    Returns:
      step [] -> weight [], float32.
    """

    def cosine(progress: jax.Array) -> jax.Array:
        wave = 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(progress, 0.0, 1.0)))
        return final + (1 - final) * wave

    shares = {
        "constant": jnp.ones_like,
        "adaptive": jnp.ones_like,
        "cosine": cosine,
        "two-phase": lambda progress: _rise(progress, delay, ramp),
        "linear": lambda progress: _rise(progress, 0.0, warmup),
        "quadratic": lambda progress: jnp.square(_rise(progress, 0.0, warmup)),
    }
    share = shares[schedule]

    def weight_at(step: int | jax.Array) -> jax.Array:
        progress = jnp.asarray(step, jnp.float32) / steps
        return jnp.asarray(weight * share(progress), jnp.float32)

    return weight_at


def _rise(progress: jax.Array, start: float, length: float) -> jax.Array:
    """0 until start, then straight up to 1 over length; a jump at start when length is 0."""
    if length == 0:
        return jnp.where(progress >= start, 1.0, 0.0)
    return jnp.clip((progress - start) / length, 0.0, 1.0)


def effective_weights(
    terms: Terms,
    weights: Mapping[str, jax.Array],
    teacher_entropy: Callable[[float], jax.Array],
    classes: int,
) -> Weights:
    """The weights in force on a batch: as scheduled, and adaptive ones by the teacher's confidence.

    Args:
      terms: the terms that act.
      weights: the scheduled weight of each.
      teacher_entropy: temperature T -> [], H in nats: the mean over the counted tokens of the
        entropy of softmax(Z_P / T). Called for adaptive weights only.
      classes: V.

    Returns:
      A float32 scalar for each term.
    """
    effective = {}
    for name, term in terms.items():
        weight = jnp.asarray(weights[name], jnp.float32)
        if term.adaptive is not None:
            entropy = teacher_entropy(term.adaptive.temperature)
            weight = adaptive(weight, term.adaptive.least, entropy, classes)
        effective[name] = weight
    return effective


def adaptive(
    weight: jax.Array, least: float, teacher_entropy: jax.Array, classes: int
) -> jax.Array:
    """More weight where the teacher is sure: min + (max - min)(1 - H / log V).

    BA-LoRA's official code; the ratio H / log V is cut to [0, 1].

    Args:
      weight: [], max.
      least: min / max.
      teacher_entropy: [], H in nats.
      classes: V. With one class the teacher is sure.

    Returns:
      [], float32, from least * weight to weight.
    """
    if classes == 1:
        return weight
    ratio = jnp.clip(teacher_entropy / jnp.log(float(classes)), 0.0, 1.0)
    return weight * (least + (1 - least) * (1 - ratio))
