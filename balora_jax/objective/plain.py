"""The objective from whole logits: L = L_task + sum of l(t) * term. The definition.

`streamed` computes the same from hidden states without holding [tokens, V]; it is tested equal.
"""

from collections.abc import Callable, Mapping

import chex
import jax
import jax.numpy as jnp

from balora_jax.objective.schedules import Weights, effective_weights
from balora_jax.regularizers import nlg
from balora_jax.regularizers.terms import Terms

# The loss's parts by name: task, every term, and `weight_<name>` of every term. No gradients.
Parts = dict[str, jax.Array]
# (logits [..., V], targets [...], mask [...]) -> [].
TaskLoss = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def cross_entropy(logits: jax.Array, targets: jax.Array, mask: jax.Array) -> jax.Array:
    """The mean over counted tokens (or examples) of -log softmax(Z)[target].

    Args:
      logits: [..., V], cast to float32.
      targets: [...], integer; anything where mask is False.
      mask: [...], True where counted.

    Returns:
      [], float32.
    """
    chex.assert_equal_shape([targets, mask])
    logits = nlg.counted_logits(logits, mask)
    targets = jnp.where(mask, targets, 0)
    target_logits = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return nlg.masked_mean(jax.nn.logsumexp(logits, axis=-1) - target_logits, mask)


def squared_error(logits: jax.Array, targets: jax.Array, mask: jax.Array) -> jax.Array:
    """The mean over counted examples of (z - score)^2, the loss of a regression.

    Args:
      logits: [N, 1], cast to float32.
      targets: [N], float scores.
      mask: [N], True where counted.

    Returns:
      [], float32.
    """
    chex.assert_shape(logits, (*targets.shape, 1))
    errors = logits[..., 0].astype(jnp.float32) - targets
    return nlg.masked_mean(jnp.square(errors), mask)


def combine(task: jax.Array, values: Parts, weights: Weights) -> tuple[jax.Array, Parts]:
    """L_task plus the weighted terms, and every part of it for the record.

    Args:
      task: [], L_task.
      values: the terms that act, unweighted.
      weights: a weight for each of them.

    Returns:
      (loss [], parts): task, the terms by name, and `weight_<name>` for each; parts carry no
      gradient.
    """
    loss = task + sum(weights[name] * value for name, value in values.items())
    in_force = {f"weight_{name}": weights[name] for name in values}
    parts = {"task": task, **values, **in_force}
    return loss, jax.tree.map(jax.lax.stop_gradient, parts)


def objective(
    logits: jax.Array,
    teacher_logits: jax.Array | None,
    targets: jax.Array,
    mask: jax.Array,
    *,
    terms: Terms,
    weights: Mapping[str, jax.Array],
    task_loss: TaskLoss = cross_entropy,
) -> tuple[jax.Array, Parts]:
    """The loss of a language model or a classifier and its parts, from whole logits.

    BA-LoRA, arXiv 2408.04556. All means, covariances and spectra are those of everything that is
    given: a micro-batch of a language model, an update's whole batch of a classifier, on any
    number of devices. A classifier's examples count as tokens. With one example or one logit (a
    regression) diversity is 0, and so is the consistency of one logit under form kl; with
    k >= min(N, D) a classifier's SVD term is the constant -1. A class that no example has changes
    nothing: the terms see logits, not targets.

    Args:
      logits: [..., V], the student's Z_F: [batch, length, V], or [N, D] of a classifier.
      teacher_logits: [..., V], the teacher's Z_P, without gradient; None where no term reads it.
      targets: [...], the token each position predicts, or each example's class or score.
      mask: [...], True where counted.
      terms: the terms that act; their settings say which version of the paper it is.
      weights: the scheduled weight of each at this step.
      task_loss: cross_entropy, or squared_error for scores.

    Returns:
      (loss, parts): float32 scalars; parts as `combine` names them.

    Raises:
      AssertionError: when shapes do not fit.
    """
    chex.assert_equal_shape([targets, mask])
    counted = nlg.counted_logits(logits, mask)
    counted_targets = jnp.where(mask, targets, 0)
    teacher = None
    if any(term.needs_teacher for term in terms.values()):
        chex.assert_equal_shape([logits, teacher_logits])
        teacher = nlg.counted_logits(jax.lax.stop_gradient(teacher_logits), mask)

    values = {}
    for name, term in terms.items():
        if term.per == "batch":
            value = term.function(counted, mask)
        else:
            teacher_rows = teacher if term.needs_teacher else None
            rows = term.function(counted, teacher_rows, counted_targets)
            value = nlg.masked_mean(rows.astype(jnp.float32), mask)
        values[name] = jnp.asarray(value, jnp.float32)

    def teacher_entropy(temperature: float) -> jax.Array:
        return nlg.masked_mean(nlg.entropy(teacher / temperature), mask)

    effective = effective_weights(terms, weights, teacher_entropy, logits.shape[-1])
    return combine(task_loss(logits, targets, mask), values, effective)
