"""The objective from whole logits, L = L_task + sum of l(t) * term: its definition.

`streamed` computes the same loss from hidden states, without [tokens, V]. Tests hold both equal.
"""

from collections.abc import Callable, Mapping

import chex
import jax
import jax.numpy as jnp

from balora_jax.objective.schedules import Weights, effective_weights
from balora_jax.regularizers import nlg
from balora_jax.regularizers.terms import Terms

# The parts of a loss by name: task, every term, and `weight_<name>` for every term.
Parts = dict[str, jax.Array]
# (logits [..., V], targets [...], mask [...]) -> [].
TaskLoss = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def cross_entropy(logits: jax.Array, targets: jax.Array, mask: jax.Array) -> jax.Array:
    """Compute the mean over the counted tokens (or examples) of -log softmax(Z)[target].

    Args:
      logits: [..., V], cast to float32.
      targets: int [...]; any value where mask is False.
      mask: bool [...], True where counted.

    Returns:
      [], float32.
    """
    chex.assert_equal_shape([targets, mask])
    logits = nlg.counted_logits(logits, mask)
    targets = jnp.where(mask, targets, 0)
    target_logits = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return nlg.masked_mean(jax.nn.logsumexp(logits, axis=-1) - target_logits, mask)


def squared_error(logits: jax.Array, targets: jax.Array, mask: jax.Array) -> jax.Array:
    """Compute the mean over the counted examples of (z - score)^2, the loss of a regression.

    Args:
      logits: [N, 1], cast to float32.
      targets: float [N], the scores.
      mask: bool [N], True where counted.

    Returns:
      [], float32.
    """
    chex.assert_shape(logits, (*targets.shape, 1))
    errors = logits[..., 0].astype(jnp.float32) - targets
    return nlg.masked_mean(jnp.square(errors), mask)


def combine(task: jax.Array, values: Parts, weights: Weights) -> tuple[jax.Array, Parts]:
    """Add the weighted terms to L_task.

    Args:
      task: [], L_task.
      values: the value of each term that acts: [], unweighted.
      weights: the weight of each of them: [].

    Returns:
      The loss [], and its parts without gradient: task, the terms by name, and `weight_<name>` for
      each term.
    """
    loss = task + sum(weights[name] * value for name, value in values.items())
    term_weights = {f"weight_{name}": weights[name] for name in values}
    parts = {"task": task, **values, **term_weights}
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
    """Compute the loss of a language model or a classifier from whole logits.

    BA-LoRA (arXiv 2408.04556). All means, covariances and spectra are taken over the whole input:
    a micro-batch of a language model, or an update's whole batch of a classifier, on any number of
    devices. The examples of a classifier count as tokens.

    Degenerate cases of a classifier: with one example or one logit (a regression) diversity is 0.
    With one logit consistency under form kl is 0. With k >= min(N, D) the SVD term is the constant
    -1. A class without examples has no effect, since the terms read logits and not targets.

    Args:
      logits: [..., V], the student's Z_F: [batch, length, V], or [N, D] of a classifier.
      teacher_logits: [..., V], the teacher's Z_P, which gets no gradient; None if no term reads it.
      targets: [...], the token that each position predicts, or the class or score of each example.
      mask: bool [...], True where counted.
      terms: the terms that act. Their settings select the version of the paper.
      weights: the scheduled weight of each term at this step: [].
      task_loss: cross_entropy, or squared_error for scores.

    Returns:
      The loss [] and its parts, float32 scalars named as in `combine`.

    Raises:
      AssertionError: the shapes do not fit.
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
