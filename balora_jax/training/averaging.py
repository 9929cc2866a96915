"""The average of the trained parameters over the updates, which is evaluated in their place."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax.contrib import ScheduleFreeState, schedule_free_eval_params

# At update n the average keeps n / (n + 9) of itself at most, so that it soon forgets the start.
RAMP = 9


class Average(NamedTuple):
    """The state of `average_of_parameters`.

    Attributes:
      count: updates done, int32.
      mean: the averaged parameters, float32.
    """

    count: jax.Array
    mean: Any


def average_of_parameters(decay: float) -> optax.GradientTransformation:
    """Keep an exponential moving average of the parameters; the updates pass unchanged.

    mean_n = d_n mean_(n-1) + (1 - d_n) params_n, with d_n = min(decay, n / (n + 9)), the ramp of
    TensorFlow's ExponentialMovingAverage; mean_0 are the initial parameters. It must be the last
    of a chain, which sees the whole update.

    Args:
      decay: the largest d_n.

    Returns:
      The transformation; its update needs the parameters.
    """

    def init(params: Any) -> Average:
        # Copies, because the step overwrites both.
        mean = jax.tree.map(lambda leaf: jnp.array(leaf, jnp.float32), params)
        return Average(jnp.zeros((), jnp.int32), mean)

    def update(updates: Any, state: Average, params: Any = None) -> tuple[Any, Average]:
        count = optax.safe_increment(state.count)
        kept = jnp.minimum(decay, count / (count + RAMP))
        new = optax.apply_updates(params, updates)
        # In bfloat16 the average would stand still: it moves by less than a rounding.
        new = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), new)
        return updates, Average(count, optax.incremental_update(new, state.mean, 1 - kept))

    return optax.GradientTransformation(init, update)


def evaluated(trainable: Any, opt_state: optax.OptState) -> Any:
    """Return the parameters to evaluate, export and generate with.

    They are the average of `average_of_parameters`, or the x of schedule-free learning, whose
    gradients are taken at another point (Defazio et al., arXiv 2405.15682); the trained ones with
    neither.

    Args:
      trainable: the trained parameters.
      opt_state: the optimizer's state.

    Returns:
      A tree like `trainable`, in its element types.
    """
    for part in jax.tree.leaves(opt_state, is_leaf=_is_average):
        if isinstance(part, Average):
            return jax.tree.map(lambda mean, leaf: mean.astype(leaf.dtype), part.mean, trainable)
        if isinstance(part, ScheduleFreeState):
            return schedule_free_eval_params(part, trainable)
    return trainable


def without_moments(opt_state: Any) -> Any:
    """Return an optimizer's state with `...` in place of what `evaluated` does not read.

    Args:
      opt_state: arrays or shapes.
    """

    def keep(part: Any) -> Any:
        if isinstance(part, Average):
            return part
        if isinstance(part, ScheduleFreeState):
            moments = jax.tree.map(lambda _: ..., part.base_optimizer_state)
            return part._replace(base_optimizer_state=moments)
        return ...

    return jax.tree.map(keep, opt_state, is_leaf=_is_average)


def _is_average(part: Any) -> bool:
    return isinstance(part, Average | ScheduleFreeState)
