"""Classes or scores for texts: the student's logits, the teacher's features, and the objective between them."""

from collections.abc import Callable
from typing import Any

import jax

from balora_jax.adapters import AdapterSpec
from balora_jax.config import RegularizersConfig
from balora_jax.data import Batch
from balora_jax.objective import plain
from balora_jax.objective.causal_lm import student
from balora_jax.training.step import LossFn, Parts

Tree = Any


def make_loss(model: Any, spec: AdapterSpec, terms: RegularizersConfig, *, scores: bool) -> LossFn:
    """The loss of an update's whole batch: (params, batch, key, weights) -> (loss, parts).

    Covariance and spectrum belong to all examples of the update. So the logits of all micro-batches are formed one
    after the other, each computed again in the backward pass where there are several, and the objective sees them
    together: the gradient is exact with the memory of one micro-batch.

    `batch.teacher` is the pre-trained model's word on each example, there when consistency's weight is not 0: its
    logits, or under teacher_head `student` its features, which the head of this very step reads.

    Args:
      model: a classifier, in its compute dtype and with its dropout rate.
      spec: what the adapters mean.
      terms: the regularizers in force.
      scores: whether targets are scores.
    """

    def loss(
        params: Tree, batch: Batch, key: jax.Array | None, weights: Parts
    ) -> tuple[jax.Array, Parts]:
        lora = student(params, spec)

        def forward(micro: Batch, micro_key: jax.Array | None) -> jax.Array:
            return _apply(model, params["base"], lora, micro, micro_key)

        texts = batch._replace(targets=None, mask=None, teacher=None)
        logits = _flat(_over_micro_batches(forward, texts, key))
        wanted = None
        if terms.consistency.weight > 0:
            wanted = _flat(batch.teacher)
            if terms.consistency.teacher_head == "student":
                wanted = jax.lax.stop_gradient(
                    model.apply({"params": params["base"]}, wanted, method="classify")
                )
        targets = _flat(batch.targets)
        return plain.nlu(logits, wanted, targets, terms=terms, weights=weights, scores=scores)

    return loss


def make_logits(model: Any, spec: AdapterSpec) -> Callable[[Tree, Batch], jax.Array]:
    """The student's logits, without dropout: (params, batch [examples, ...]) -> [examples, D]."""

    def logits(params: Tree, batch: Batch) -> jax.Array:
        return _apply(model, params["base"], student(params, spec), batch, None)

    return logits


def make_features(model: Any) -> Callable[[Tree, Batch], jax.Array]:
    """What the pre-trained model's head reads, without dropout: (base, batch [examples, ...]) -> [examples, d]."""

    def features(base: Tree, batch: Batch) -> jax.Array:
        return _apply(model, base, {}, batch, None, "features")

    return features


def _over_micro_batches(forward: Callable, batch: Batch, key: jax.Array | None) -> jax.Array:
    """[micro-batches, examples, D]."""
    number = len(batch.input_ids)
    keys = None if key is None else jax.random.split(key, number)
    if number == 1:
        return forward(*jax.tree.map(lambda leaf: leaf[0], (batch, keys)))[None]
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
):
    return model.apply(
        {"params": base, "lora": lora},
        batch.input_ids,
        batch.attention_mask,
        batch.token_type_ids,
        deterministic=key is None,
        rngs=None if key is None else {"dropout": key},
        method=method,
    )
