"""Classes or scores for texts: the student's logits, the teacher's, and the objective of both."""

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
    """The loss of scores (squared error) or classes (cross-entropy)."""
    return plain.squared_error if regression else plain.cross_entropy


def make_loss(
    model: Any,
    spec: AdapterSpec,
    terms: Terms,
    *,
    regression: bool,
    student_head: bool = False,
) -> LossFn:
    """The loss of an update's whole batch: (params, batch, key, weights) -> (loss, parts).

    Covariance and spectrum belong to all examples of the update. So the logits of all micro-batches
    are formed one after the other, each computed again in the backward pass where there are
    several, and the objective sees them together: the gradient is exact with the memory of one
    micro-batch.

    `batch.teacher`, which a term that reads the teacher needs, holds the pre-trained model's logits
    of each example, or its features if `student_head`.

    Args:
      model: a classifier, in its compute dtype and with its dropout rate.
      spec: rank, scale and form of the adapters.
      terms: the terms that act.
      regression: whether targets are scores.
      student_head: whether the head of the current step reads the teacher's features.
    """
    needs_teacher = any(term.needs_teacher for term in terms.values())

    def loss(
        params: Params, batch: Batch, key: jax.Array | None, weights: Parts
    ) -> tuple[jax.Array, Parts]:
        lora = student_lora_of(params, spec)

        def forward(micro_batch: Batch, micro_key: jax.Array | None) -> jax.Array:
            return _apply(model, params.base, lora, micro_batch, micro_key)

        # Only the texts are looped over: the rest is read when all logits are there.
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
    """The student's logits, without dropout: (params, batch [examples, ...]) -> [examples, D].

    Args:
      model: a classifier.
      spec: rank, scale and form of the adapters.
    """

    def logits(params: Params, batch: Batch) -> jax.Array:
        return _apply(model, params.base, student_lora_of(params, spec), batch, None)

    return logits


def make_features(model: Any) -> Callable[[Tree, Batch], jax.Array]:
    """The pre-trained model's input to its head, without dropout.

    Args:
      model: a classifier.

    Returns:
      (base, batch [examples, ...]) -> [examples, d].
    """

    def features(base: Tree, batch: Batch) -> jax.Array:
        return _apply(model, base, {}, batch, None, "features")

    return features


def _over_micro_batches(forward: Callable, batch: Batch, key: jax.Array | None) -> jax.Array:
    """[micro-batches, examples, D]."""
    count = len(batch.input_ids)
    keys = None if key is None else jax.random.split(key, count)
    if count == 1:
        only_batch, only_key = jax.tree.map(lambda leaf: leaf[0], (batch, keys))
        return forward(only_batch, only_key)[None]
    return jax.lax.map(lambda inputs: jax.checkpoint(forward)(*inputs), (batch, keys))


def _flat(array: jax.Array) -> jax.Array:
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
