"""Schedules of the regularizers' weights, l(t), in the style of optax."""

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
    """Make the schedule of one term's weight.

    The schedules are those of BA-LoRA's official PyTorch code: constant; cosine, from the weight to
    `final` times the weight; two-phase, 0 at first and then a linear ramp; linear and quadratic
    warm-up. An adaptive weight is constant here, and the objective scales it by the teacher's
    confidence (`effective_weights`).

    Args:
      weight: the largest value of the weight.
      schedule: constant, adaptive, cosine, two-phase, linear or quadratic.
      steps: updates in the run.
      final: the last value of a cosine, as a share of the weight.
      delay: the share of the steps before a two-phase weight rises.
      ramp: the share of the steps over which a two-phase weight rises.
      warmup: the share of the steps over which a linear or quadratic weight rises.

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
    """A ramp from 0 at `start` to 1 at `start + length`; a jump at `start` if the length is 0."""
    if length == 0:
        return jnp.where(progress >= start, 1.0, 0.0)
    return jnp.clip((progress - start) / length, 0.0, 1.0)


def effective_weights(
    terms: Terms,
    weights: Mapping[str, jax.Array],
    teacher_entropy: Callable[[float], jax.Array],
    classes: int,
) -> Weights:
    """Return the weights of a batch: the scheduled ones, with adaptive ones scaled.

    Args:
      terms: the terms that act.
      weights: the scheduled weight of each term.
      teacher_entropy: temperature T -> H [] in nats, the mean over the counted tokens of the
        entropy of softmax(Z_P / T). It is called for adaptive weights only.
      classes: V, the number of logits.

    Returns:
      The weight of each term: [], float32.
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
    """Scale a weight by the teacher's confidence: min + (max - min)(1 - H / log V).

    From BA-LoRA's official code. The ratio H / log V is clipped to [0, 1].

    Args:
      weight: [], max.
      least: min / max.
      teacher_entropy: [], H in nats.
      classes: V. With one class the weight is max.

    Returns:
      [], float32, between least * weight and weight.
    """
    if classes == 1:
        return weight
    ratio = jnp.clip(teacher_entropy / jnp.log(float(classes)), 0.0, 1.0)
    return weight * (least + (1 - least) * (1 - ratio))
