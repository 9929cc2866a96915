"""One update as a pure function of state and batch."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from balora_jax.data import Batch
from balora_jax.objective.params import LossFn, Params, Parts
from balora_jax.training.state import TrainState, combine

# (trainable, trainable -> params, batch [micro-batches, examples, ...], key, weights) ->
# (gradient, report).
Gradient = Callable[
    [Params, Callable[[Params], Params], Batch, jax.Array, dict[str, jax.Array]],
    tuple[Params, Parts],
]
Weights = Callable[[jax.Array], dict[str, jax.Array]]
# (state, frozen, batch [micro-batches, examples, ...]) -> (state, metrics).
Step = Callable[[TrainState, Params, Batch], tuple[TrainState, Parts]]


def token_weighted(loss_fn: LossFn) -> Gradient:
    """The gradient of a mean over tokens: micro-batches in turn, weighted by their counted tokens.

    Args:
      loss_fn: the loss of one micro-batch; loss and parts are means over its counted tokens.

    Returns:
      The gradient of an update's whole batch.
    """

    def gradient(trainable, complete, batch, key, weights):
        counted = jnp.sum(batch.mask)

        def loss_of(trainable, micro_batch, micro_key):
            loss, parts = loss_fn(complete(trainable), micro_batch, micro_key, weights)
            share = jnp.sum(micro_batch.mask) / jnp.maximum(counted, 1)
            report = {"loss": share * loss} | {name: share * part for name, part in parts.items()}
            return share * loss, report

        # Traced once, for its shapes and for the loop.
        one = jax.jit(jax.grad(loss_of, has_aux=True))

        def accumulate(total, inputs):
            return jax.tree.map(jnp.add, total, one(trainable, *inputs)), None

        inputs = batch, jax.random.split(key, len(batch.mask))
        first = jax.tree.map(lambda leaf: leaf[0], inputs)
        shapes = jax.eval_shape(one, trainable, *first)
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        (gradients, parts), _ = jax.lax.scan(accumulate, zeros, inputs)
        return gradients, parts | {"response_tokens": counted}

    return gradient


def whole_batch(loss_fn: LossFn) -> Gradient:
    """The gradient of a loss that sees all micro-batches: its terms are no sums over examples.

    Args:
      loss_fn: the loss of the whole batch [micro-batches, examples, ...]; it keeps to a
        micro-batch's memory itself.

    Returns:
      The gradient of an update's whole batch.
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
    mask: Params,
    weights_at: Weights,
    learning_rate: optax.Schedule,
) -> Step:
    """The update of the trainable leaves.

    Args:
      gradient: `token_weighted` or `whole_batch` of the objective.
      optimizer: from `make_optimizer`, masked by the same `mask`.
      mask: True where trained.
      weights_at: the regularizers' weights at a step.
      learning_rate: for the report only; the optimizer has its own.

    Returns:
      step(state, frozen, batch) -> (state, metrics). Every array of the batch is [micro-batches,
      examples, ...].
    """

    def step(state: TrainState, frozen: Params, batch: Batch) -> tuple[TrainState, Parts]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)

        def complete(trainable: Params) -> Params:
            return combine(trainable, frozen, mask)

        weights = weights_at(state.step)
        gradients, parts = gradient(state.trainable, complete, batch, key, weights)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.trainable)
        trainable = optax.apply_updates(state.trainable, updates)
        metrics = parts | {
            "learning_rate": learning_rate(state.step),
            "gradient_norm": optax.global_norm(gradients),
            "tokens": jnp.sum(batch.attention_mask),
        }
        state = state.replace(step=state.step + 1, trainable=trainable, opt_state=opt_state)
        return state, metrics

    return step
