"""One update, and one evaluation, as pure functions of state and batch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from balora_jax.training.state import TrainState, combine

Batch = dict[str, jax.Array]
Parts = dict[str, jax.Array]
# (params, micro-batch, random key or None, weights) -> (loss, parts), both means over the micro-batch's counted tokens.
LossFn = Callable[[Any, Batch, jax.Array | None, dict[str, jax.Array]], tuple[jax.Array, Parts]]
Weights = Callable[[jax.Array], dict[str, jax.Array]]


def make_train_step(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    mask: Any,
    weights_at: Weights,
    learning_rate: optax.Schedule,
) -> Callable[[TrainState, Any, Batch], tuple[TrainState, Parts]]:
    """The update: gradients of the trainable leaves, summed over micro-batches by their counted tokens.

    Args:
      loss_fn: the objective; see `LossFn`.
      optimizer: from `make_optimizer`, masked by the same `mask`.
      mask: True where trained.
      weights_at: the regularizers' weights at a step.
      learning_rate: for the report only; the optimizer has its own.

    Returns:
      step(state, frozen, batch) -> (state, metrics). Every array of the batch is [micro-batches, examples, ...].
    """

    def step(state: TrainState, frozen: Any, batch: Batch) -> tuple[TrainState, Parts]:
        weights = weights_at(state.step)
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        tokens = jnp.sum(batch["mask"])

        def loss_of(trainable, micro, micro_key):
            loss, parts = loss_fn(combine(trainable, frozen, mask), micro, micro_key, weights)
            share = jnp.sum(micro["mask"]) / jnp.maximum(tokens, 1)
            return share * loss, {"loss": share * loss} | {name: share * part for name, part in parts.items()}

        gradient = jax.grad(loss_of, has_aux=True)

        def accumulate(total, inputs):
            return jax.tree.map(jnp.add, total, gradient(state.trainable, *inputs)), None

        inputs = batch, jax.random.split(key, len(batch["mask"]))
        first = jax.tree.map(lambda leaf: leaf[0], inputs)
        shapes = jax.eval_shape(gradient, state.trainable, *first)
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        (grads, parts), _ = jax.lax.scan(accumulate, zeros, inputs)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.trainable)
        trainable = optax.apply_updates(state.trainable, updates)
        report = parts | {"learning_rate": learning_rate(state.step), "gradient_norm": optax.global_norm(grads)}
        report |= {"response_tokens": tokens, "tokens": jnp.sum(batch["attention_mask"])}
        return state.replace(step=state.step + 1, trainable=trainable, opt_state=opt_state), report

    return step


def make_eval_step(task_loss: Callable[[Any, Batch], jax.Array], mask: Any):
    """step(trainable, frozen, batch) -> (sum of the task's loss over counted tokens, counted tokens)."""

    def step(trainable: Any, frozen: Any, batch: Batch) -> tuple[jax.Array, jax.Array]:
        tokens = jnp.sum(batch["mask"])
        return task_loss(combine(trainable, frozen, mask), batch) * tokens, tokens

    return step
