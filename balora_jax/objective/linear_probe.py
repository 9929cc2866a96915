"""A head fitted on frozen features before anything else is trained (Kumar et al., arXiv 2202.10054)."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from balora_jax.objective import plain

Tree = Any
# Quasi-Newton steps at most; on features of this kind some tens are enough.
STEPS = 300
# The gradient's largest element at which the fit is done.
TOLERANCE = 1e-5


def fit_head(
    model: Any, head: Tree, features: jax.Array, labels: jax.Array, *, scores: bool
) -> Tree:
    """The head that fits the labels best: full-batch L-BFGS on the task's loss plus |kernels|^2 / (2 N).

    For a linear head this is logistic (or ridge) regression with scikit-learn's C = 1 (or alpha = 1/2).

    Args:
      model: a classifier.
      head: the head's parameters to begin with, {module: ...}.
      features: [N, d], what the head reads.
      labels: [N], integer classes or float scores.
      scores: which of the two.

    Returns:
      The head's parameters, likewise, float32.
    """
    solver = optax.lbfgs()

    def loss(head: Tree) -> jax.Array:
        logits = model.apply({"params": head}, features, method="classify")
        kernels = (
            leaf
            for path, leaf in jax.tree_util.tree_leaves_with_path(head)
            if path[-1].key == "kernel"
        )
        penalty = sum(jnp.sum(jnp.square(kernel)) for kernel in kernels) / (2 * len(labels))
        return plain.classification_error(logits, labels, scores=scores) + penalty

    value_and_grad = optax.value_and_grad_from_state(loss)

    def step(carried):
        head, state, _, number = carried
        value, grad = value_and_grad(head, state=state)
        updates, state = solver.update(grad, state, head, value=value, grad=grad, value_fn=loss)
        return (
            optax.apply_updates(head, updates),
            state,
            optax.tree.norm(grad, ord=jnp.inf),
            number + 1,
        )

    def unfinished(carried):
        _, _, slope, number = carried
        return (slope > TOLERANCE) & (number < STEPS)

    @jax.jit
    def run(head: Tree) -> Tree:
        return jax.lax.while_loop(unfinished, step, (head, solver.init(head), jnp.inf, 0))[0]

    return run(jax.tree.map(lambda leaf: leaf.astype(jnp.float32), head))
