"""One update, and one evaluation, as pure functions of state and batch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from balora_jax.data import Batch
from balora_jax.training.state import TrainState, combine

Parts = dict[str, jax.Array]
# (params, batch, random key or None, weights) -> (loss, parts).
LossFn = Callable[[Any, Batch, jax.Array | None, dict[str, jax.Array]], tuple[jax.Array, Parts]]
# (trainable, trainable -> params, batch [micro-batches, examples, ...], key, weights) -> (gradient, report).
Gradient = Callable[
    [Any, Callable[[Any], Any], Batch, jax.Array, dict[str, jax.Array]], tuple[Any, Parts]
]
Weights = Callable[[jax.Array], dict[str, jax.Array]]


def token_weighted(loss_fn: LossFn) -> Gradient:
    """The gradient of a loss that is a mean over tokens: micro-batches one by one, weighted by their counted tokens.

    Args:
      loss_fn: of one micro-batch; loss and parts are means over its counted tokens.
    """

    def gradient(trainable, complete, batch, key, weights):
        tokens = jnp.sum(batch.mask)

        def loss_of(trainable, micro, micro_key):
            loss, parts = loss_fn(complete(trainable), micro, micro_key, weights)
            share = jnp.sum(micro.mask) / jnp.maximum(tokens, 1)
            return share * loss, {"loss": share * loss} | {
                name: share * part for name, part in parts.items()
            }

        one = jax.grad(loss_of, has_aux=True)

        def accumulate(total, inputs):
            return jax.tree.map(jnp.add, total, one(trainable, *inputs)), None

        inputs = batch, jax.random.split(key, len(batch.mask))
        first = jax.tree.map(lambda leaf: leaf[0], inputs)
        shapes = jax.eval_shape(one, trainable, *first)
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        (grads, parts), _ = jax.lax.scan(accumulate, zeros, inputs)
        return grads, parts | {"response_tokens": tokens}

    return gradient


def whole_batch(loss_fn: LossFn) -> Gradient:
    """The gradient of a loss that sees all micro-batches at once, because its terms are not sums over examples.

    Args:
      loss_fn: of the whole batch [micro-batches, examples, ...]; keeping to a micro-batch's memory is its own matter.
    """

    def gradient(trainable, complete, batch, key, weights):
        def loss_of(trainable):
            loss, parts = loss_fn(complete(trainable), batch, key, weights)
            return loss, {"loss": loss} | parts

        return jax.grad(loss_of, has_aux=True)(trainable)

    return gradient


def make_train_step(
    gradient: Gradient,
    optimizer: optax.GradientTransformation,
    mask: Any,
    weights_at: Weights,
    learning_rate: optax.Schedule,
) -> Callable[[TrainState, Any, Batch], tuple[TrainState, Parts]]:
    """The update of the trainable leaves.

    Args:
      gradient: `token_weighted` or `whole_batch` of the objective.
      optimizer: from `make_optimizer`, masked by the same `mask`.
      mask: True where trained.
      weights_at: the regularizers' weights at a step.
      learning_rate: for the report only; the optimizer has its own.

    Returns:
      step(state, frozen, batch) -> (state, metrics). Every array of the batch is [micro-batches, examples, ...].
    """

    def step(state: TrainState, frozen: Any, batch: Batch) -> tuple[TrainState, Parts]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)

        def complete(trainable):
            return combine(trainable, frozen, mask)

        grads, parts = gradient(state.trainable, complete, batch, key, weights_at(state.step))
        updates, opt_state = optimizer.update(grads, state.opt_state, state.trainable)
        trainable = optax.apply_updates(state.trainable, updates)
        report = parts | {
            "learning_rate": learning_rate(state.step),
            "gradient_norm": optax.global_norm(grads),
        }
        report |= {"tokens": jnp.sum(batch.attention_mask)}
        return state.replace(step=state.step + 1, trainable=trainable, opt_state=opt_state), report

    return step


def make_eval_step(task_loss: Callable[[Any, Batch], jax.Array], mask: Any):
    """step(trainable, frozen, batch) -> (sum of the task's loss over counted tokens, counted tokens)."""

    def step(trainable: Any, frozen: Any, batch: Batch) -> tuple[jax.Array, jax.Array]:
        tokens = jnp.sum(batch.mask)
        return task_loss(combine(trainable, frozen, mask), batch) * tokens, tokens

    return step
