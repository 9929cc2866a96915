"""The loss of classification and regression: logits of student and teacher, and the objective."""

from collections.abc import Callable
from typing import Any

import jax

from balora_jax.adapters import AdapterSpec
from balora_jax.data import Batch
from balora_jax.objective import plain
from balora_jax.objective.causal_lm import student_lora_of
from balora_jax.objective.params import LossFn, Params, Parts, Tree
from balora_jax.regularizers.terms import Terms


def task_loss(regression: bool) -> plain.TaskLoss:
    """Return the task loss: the squared error of scores, or the cross-entropy of classes.

    Args:
      regression: True if targets are scores.
    """
    return plain.squared_error if regression else plain.cross_entropy


def make_loss(
    model: Any,
    spec: AdapterSpec,
    terms: Terms,
    *,
    regression: bool,
    student_head: bool = False,
) -> LossFn:
    """Make the loss function of an update's whole batch.

    Covariance and spectrum are those of all examples of the update. So the objective reads the
    logits of all micro-batches together. The logits are computed one micro-batch at a time; if
    there are several micro-batches, the backward pass computes them again. The gradient is exact,
    with the activations of one micro-batch in memory.

    If a term reads the teacher, `batch.teacher` holds the pre-trained model's logits of each
    example, or its features if `student_head` is True.

    Args:
      model: a classifier, with its compute dtype and its dropout rate.
      spec: the rank, scale and form of the adapters.
      terms: the terms that act.
      regression: True if targets are scores.
      student_head: True if the student's current head reads the teacher's features.

    Returns:
      (params, batch [micro-batches, examples, ...], key, weights) -> (loss [], parts).
    """
    needs_teacher = any(term.needs_teacher for term in terms.values())

    def loss(
        params: Params, batch: Batch, key: jax.Array | None, weights: Parts
    ) -> tuple[jax.Array, Parts]:
        lora = student_lora_of(params, spec)

        def forward(micro_batch: Batch, micro_key: jax.Array | None) -> jax.Array:
            return _apply(model, params.base, lora, micro_batch, micro_key)

        # The loop runs over the texts alone; the objective reads the rest of the batch.
        texts = batch._replace(targets=None, mask=None, teacher=None)
        logits = _flat(_over_micro_batches(forward, texts, key))
        teacher_logits = None
        if needs_teacher:
            teacher_logits = _flat(batch.teacher)
            if student_head:
                teacher_logits = jax.lax.stop_gradient(
                    model.apply({"params": params.base}, teacher_logits, method="classify")
                )
        return plain.objective(
            logits,
            teacher_logits,
            _flat(batch.targets),
            _flat(batch.mask),
            terms=terms,
            weights=weights,
            task_loss=task_loss(regression),
        )

    return loss


def make_logits(model: Any, spec: AdapterSpec) -> Callable[[Params, Batch], jax.Array]:
    """Make the function of the student's logits, without dropout.

    Args:
      model: a classifier.
      spec: the rank, scale and form of the adapters.

    Returns:
      (params, batch [examples, ...]) -> logits [examples, D].
    """

    def logits(params: Params, batch: Batch) -> jax.Array:
        return _apply(model, params.base, student_lora_of(params, spec), batch, None)

    return logits


def make_features(model: Any) -> Callable[[Tree, Batch], jax.Array]:
    """Make the function of the pre-trained model's features (the input to its head), no dropout.

    Args:
      model: a classifier.

    Returns:
      (base, batch [examples, ...]) -> features [examples, d].
    """

    def features(base: Tree, batch: Batch) -> jax.Array:
        return _apply(model, base, {}, batch, None, "features")

    return features


def _over_micro_batches(forward: Callable, batch: Batch, key: jax.Array | None) -> jax.Array:
    """Apply a function to each micro-batch and stack the results [micro-batches, examples, D]."""
    count = len(batch.input_ids)
    keys = None if key is None else jax.random.split(key, count)
    if count == 1:
        only_batch, only_key = jax.tree.map(lambda leaf: leaf[0], (batch, keys))
        return forward(only_batch, only_key)[None]
    return jax.lax.map(lambda inputs: jax.checkpoint(forward)(*inputs), (batch, keys))


def _flat(array: jax.Array) -> jax.Array:
    """Join the first two dimensions: [micro-batches, examples, ...] -> [all examples, ...]."""
    return array.reshape(-1, *array.shape[2:])


def _apply(
    model: Any,
    base: Tree,
    lora: Tree,
    batch: Batch,
    key: jax.Array | None,
    method: str | None = None,
) -> jax.Array:
    return model.apply(
        {"params": base, "lora": lora},
        batch.input_ids,
        batch.attention_mask,
        batch.token_type_ids,
        deterministic=key is None,
        rngs=None if key is None else {"dropout": key},
        method=method,
    )
