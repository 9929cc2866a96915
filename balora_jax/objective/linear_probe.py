"""A head fitted on frozen features before anything else is trained (Kumar et al., 2202.10054)."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from balora_jax.objective.classification import task_loss
from balora_jax.objective.params import Tree

# Quasi-Newton steps at most; on features of this kind some tens are enough.
STEPS = 300
# The gradient's largest element at which the fit is done.
TOLERANCE = 1e-5


def fit_head(
    model: Any, head: Tree, features: jax.Array, labels: jax.Array, *, regression: bool
) -> Tree:
    """Fit a head to labels: full-batch L-BFGS on the task's loss plus |kernels|^2 / (2 N).

    For a linear head this is logistic (or ridge) regression with scikit-learn's C = 1 (or
    alpha = 1/2).

    Args:
      model: a classifier.
      head: the head's parameters to begin with, {module: ...}.
      features: [N, d], the head's input.
      labels: [N], integer classes or float scores.
      regression: whether labels are scores.

    Returns:
      The head's parameters, likewise, float32.
    """
    solver = optax.lbfgs()
    everything = jnp.ones(labels.shape, bool)

    def loss(head: Tree) -> jax.Array:
        logits = model.apply({"params": head}, features, method="classify")
        leaves = jax.tree_util.tree_leaves_with_path(head)
        kernels = (leaf for path, leaf in leaves if path[-1].key == "kernel")
        penalty = sum(jnp.sum(jnp.square(kernel)) for kernel in kernels) / (2 * len(labels))
        return task_loss(regression)(logits, labels, everything) + penalty

    value_and_grad = optax.value_and_grad_from_state(loss)

    def step(carry):
        head, state, _, number = carry
        value, grad = value_and_grad(head, state=state)
        updates, state = solver.update(grad, state, head, value=value, grad=grad, value_fn=loss)
        slope = optax.tree.norm(grad, ord=jnp.inf)
        return optax.apply_updates(head, updates), state, slope, number + 1

    def unfinished(carry):
        _, _, slope, number = carry
        return (slope > TOLERANCE) & (number < STEPS)

    @jax.jit
    def run(head: Tree) -> Tree:
        return jax.lax.while_loop(unfinished, step, (head, solver.init(head), jnp.inf, 0))[0]

    return run(jax.tree.map(lambda leaf: leaf.astype(jnp.float32), head))
