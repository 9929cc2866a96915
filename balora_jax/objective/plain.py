"""The objective from whole logits: L = L_task + l1 L_CR + l2 L_DR + l3 L_SVDR. The definition.

`streaming` computes the same from hidden states without ever holding [tokens, V]; it is tested equal to this.
"""

import chex
import jax
import jax.numpy as jnp

from balora_jax.config import RegularizersConfig
from balora_jax.objective.schedules import adaptive
from balora_jax.regularizers import nlg as regularizers
from balora_jax.regularizers import nlu as classifying

Parts = dict[str, jax.Array]


def cross_entropy(logits: jax.Array, targets: jax.Array, mask: jax.Array) -> jax.Array:
    """The mean over valid tokens of -log softmax(Z)[target].

    Args:
      logits: [..., V], cast to float32.
      targets: [...], integer; whatever it is where mask is False.
      mask: [...], True where counted.

    Returns:
      [], float32.
    """
    chex.assert_equal_shape([targets, mask])
    logits = regularizers.counted_logits(logits, mask)
    aimed = jnp.take_along_axis(logits, jnp.where(mask, targets, 0)[..., None], axis=-1)[..., 0]
    return regularizers.masked_mean(jax.nn.logsumexp(logits, axis=-1) - aimed, mask)


def effective_weights(
    terms: RegularizersConfig,
    weights: dict[str, jax.Array],
    teacher_entropy: jax.Array | None,
    classes: int,
) -> dict[str, jax.Array]:
    """The weights in force: as scheduled, and consistency's by the teacher's confidence if it is adaptive."""
    in_force = {name: jnp.asarray(weight, jnp.float32) for name, weight in weights.items()}
    if teacher_entropy is not None:
        scheduled = in_force["consistency"]
        in_force["consistency"] = adaptive(
            scheduled, terms.consistency.final, teacher_entropy, classes
        )
    return in_force


def combine(
    task: jax.Array, values: Parts, weights: dict[str, jax.Array]
) -> tuple[jax.Array, Parts]:
    """L_task plus the weighted terms, and every part of it for the record.

    Args:
      task: [], L_task.
      values: the terms that act, unweighted.
      weights: a weight for each of them.

    Returns:
      (loss [], parts): task, the terms by name, and `weight_<name>` for each; parts carry no gradient.
    """
    loss = task + sum(weights[name] * value for name, value in values.items())
    parts = {"task": task, **values, **{f"weight_{name}": weights[name] for name in values}}
    return loss, jax.tree.map(jax.lax.stop_gradient, parts)


def nlg(
    logits: jax.Array,
    teacher_logits: jax.Array | None,
    targets: jax.Array,
    mask: jax.Array,
    *,
    terms: RegularizersConfig,
    weights: dict[str, jax.Array],
) -> tuple[jax.Array, Parts]:
    """A language model's loss and its parts, from whole logits.

    BA-LoRA, arXiv 2408.04556. Which version of the paper it is, `terms` says: T, top_k and norm.
    A term whose configured weight is 0 is absent and costs nothing. All means and the SVD term are over the
    valid tokens of the whole batch given, on however many devices it is spread.

    Args:
      logits: [batch, length, V], the student's.
      teacher_logits: [batch, length, V], the pre-trained model's, without gradient; None will do when
        consistency's configured weight is 0.
      targets: [batch, length], the token each position predicts.
      mask: [batch, length], True where the position predicts a counted token.
      terms: the regularizers.
      weights: each acting term's weight at this step (`schedules.weights_at`).

    Returns:
      (loss, parts): float32 scalars; parts as `combine` names them.

    Raises:
      AssertionError: when shapes do not fit.
    """
    values, entropy = {}, None
    if terms.consistency.weight > 0:
        values["consistency"] = regularizers.consistency(
            logits, teacher_logits, mask, temperature=terms.consistency.temperature
        )
        if terms.consistency.schedule == "adaptive":
            entropy = -regularizers.diversity(
                jax.lax.stop_gradient(teacher_logits), mask, top_k=None
            )
    if terms.diversity.weight > 0:
        values["diversity"] = regularizers.diversity(logits, mask, top_k=terms.diversity.top_k)
    if terms.svd.weight > 0:
        values["svd"] = regularizers.svd(
            logits, mask, k=terms.svd.k, norm=terms.svd.norm, groups=terms.svd.groups
        )
    in_force = effective_weights(terms, weights, entropy, logits.shape[-1])
    return combine(cross_entropy(logits, targets, mask), values, in_force)


def classification_error(logits: jax.Array, labels: jax.Array, *, scores: bool) -> jax.Array:
    """The mean over examples of -log softmax(Z)[label], or of (z - label)^2 where labels are scores.

    Args:
      logits: [N, D], cast to float32; D is 1 for scores.
      labels: [N], integer classes or float scores.
      scores: which of the two.

    Returns:
      [], float32.
    """
    if scores:
        chex.assert_shape(logits, (len(labels), 1))
        return jnp.mean(jnp.square(logits[:, 0].astype(jnp.float32) - labels))
    return cross_entropy(logits, labels, jnp.ones(labels.shape, bool))


def nlu(
    logits: jax.Array,
    teacher_logits: jax.Array | None,
    labels: jax.Array,
    *,
    terms: RegularizersConfig,
    weights: dict[str, jax.Array],
    scores: bool,
) -> tuple[jax.Array, Parts]:
    """A classifier's loss and its parts.

    BA-LoRA, arXiv 2408.04556. Covariance and spectrum are those of all examples given: an update's whole batch, on
    however many devices and micro-batches. With one example or one logit (a score) diversity is 0, and so is the
    consistency of one logit under form kl; with k >= min(N, D) the SVD term is the constant -1. A class that no
    example has changes nothing: the terms see logits, not labels.

    Args:
      logits: [N, D], the student's.
      teacher_logits: [N, D], the pre-trained model's, without gradient; None will do when consistency's configured
        weight is 0.
      labels: [N], integer classes or float scores.
      terms: the regularizers; consistency's form and svd's k say which version of the paper it is.
      weights: each acting term's weight at this step (`schedules.weights_at`).
      scores: whether labels are scores.

    Returns:
      (loss, parts): float32 scalars; parts as `combine` names them.

    Raises:
      AssertionError: when shapes do not fit.
    """
    values, entropy = {}, None
    if terms.consistency.weight > 0:
        form, temperature = terms.consistency.form, terms.consistency.temperature
        values["consistency"] = classifying.consistency(
            logits, teacher_logits, form=form, temperature=temperature
        )
        if terms.consistency.schedule == "adaptive":
            everything = jnp.ones(labels.shape, bool)
            entropy = -regularizers.diversity(
                jax.lax.stop_gradient(teacher_logits), everything, top_k=None
            )
    if terms.diversity.weight > 0:
        values["diversity"] = classifying.diversity(logits)
    if terms.svd.weight > 0:
        values["svd"] = classifying.svd(logits, k=terms.svd.k)
    in_force = effective_weights(terms, weights, entropy, logits.shape[-1])
    return combine(classification_error(logits, labels, scores=scores), values, in_force)
