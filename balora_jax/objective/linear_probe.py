"""The linear probe: a head fitted on frozen features before fine-tuning.

Kumar et al., arXiv 2202.10054.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from balora_jax.objective.classification import task_loss
from balora_jax.objective.params import Tree

# The most quasi-Newton steps; a few tens are usually enough.
STEPS = 300
# The fit ends when the largest element of the gradient is at most this.
TOLERANCE = 1e-5


def fit_head(
    model: Any, head: Tree, features: jax.Array, labels: jax.Array, *, regression: bool
) -> Tree:
    """Fit a head to labels by full-batch L-BFGS on the task loss plus |kernels|^2 / (2 N).

    For a linear head this is the logistic regression of scikit-learn with C = 1, or its ridge
    regression with alpha = 1/2.

    Args:
      model: a classifier.
      head: the initial parameters of the head, {module: ...}.
      features: [N, d], the input of the head.
      labels: [N], int classes or float scores.
      regression: True if labels are scores.

    Returns:
      The fitted parameters, the same tree in float32.
    """
    solver = optax.lbfgs()
    mask = jnp.ones(labels.shape, bool)

    def loss(head: Tree) -> jax.Array:
        logits = model.apply({"params": head}, features, method="classify")
        leaves = jax.tree_util.tree_leaves_with_path(head)
        kernels = (leaf for path, leaf in leaves if path[-1].key == "kernel")
        penalty = sum(jnp.sum(jnp.square(kernel)) for kernel in kernels) / (2 * len(labels))
        return task_loss(regression)(logits, labels, mask) + penalty

    value_and_grad = optax.value_and_grad_from_state(loss)

    def step(carry):
        head, state, _, number = carry
        value, grad = value_and_grad(head, state=state)
        updates, state = solver.update(grad, state, head, value=value, grad=grad, value_fn=loss)
        largest = optax.tree.norm(grad, ord=jnp.inf)
        return optax.apply_updates(head, updates), state, largest, number + 1

    def unfinished(carry):
        _, _, largest, number = carry
        return (largest > TOLERANCE) & (number < STEPS)

    @jax.jit
    def run(head: Tree) -> Tree:
        first = (head, solver.init(head), jnp.inf, 0)
        fitted, *_ = jax.lax.while_loop(unfinished, step, first)
        return fitted

    # Products of rounded numbers have no gradient as small as the tolerance.
    with jax.default_matmul_precision("float32"):
        return run(jax.tree.map(lambda leaf: leaf.astype(jnp.float32), head))
