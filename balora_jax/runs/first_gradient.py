"""The gradient of a run's first batch, for the adapter starts that need it."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from balora_jax import adapters
from balora_jax.config import RunConfig
from balora_jax.data import Batch
from balora_jax.objective import classification
from balora_jax.objective.params import Params, Tree
from balora_jax.runs.setup import CLASSIFICATION, LANGUAGE_TASKS, is_regression
from balora_jax.training.setup import TrainSetup
from balora_jax.training.sharding import batch_sharding, put
from balora_jax.training.state import Path
from balora_jax.training.subtrees import without

KernelGradients = Mapping[Path, jax.Array]


def needs_gradient(config: RunConfig) -> bool:
    """Return True if the adapters' start needs the gradient of the first batch.

    Args:
      config: the run.
    """
    start_and_settings = adapters.find_start(config.adapter_init)
    if config.method == "full" or start_and_settings is None:
        return False
    start, _ = start_and_settings
    return start.needs == "gradient"


def first_gradient(
    config: RunConfig, setup: TrainSetup, base: Tree, batch: Batch
) -> KernelGradients:
    """Compute the gradient of the task loss with respect to every target kernel.

    The gradient takes as much memory as those kernels in float32, divided over the mesh as they
    are.

    Args:
      config: the run.
      setup: from `build_setup`.
      base: the parameters of the model on the mesh.
      batch: the first batch of the run, numpy arrays [examples, ...].

    Returns:
      {path: [in, out] or [layers, in, out]}, float32: the mean over the batch's counted tokens.
    """
    paths = adapters.match_targets(config.adapter.targets, without(base, setup.head))
    task_loss = _task_loss(config, setup)
    flat = traverse_util.flatten_dict(base)
    kernels = {path: flat[adapters.adapted_leaf(flat, path)] for path in paths}
    # Divided over the mesh as the kernels are.
    shardings = {path: kernel.sharding for path, kernel in kernels.items()}
    replicated = NamedSharding(setup.mesh, P())

    def add(
        total: KernelGradients, base: Tree, micro_batch: Batch
    ) -> tuple[KernelGradients, jax.Array]:
        counted = jnp.sum(micro_batch.mask)

        def loss(base: Tree) -> jax.Array:
            return counted * task_loss(Params(adapters={}, base=base), micro_batch)

        gradients = adapters.kernel_gradients(loss, base, paths)
        return jax.tree.map(jnp.add, total, gradients), counted

    add = jax.jit(add, donate_argnums=0, out_shardings=(shardings, replicated))
    zeros = {path: jnp.zeros(kernel.shape, jnp.float32) for path, kernel in kernels.items()}
    total = jax.tree.map(jax.device_put, zeros, shardings)
    accumulation = config.training.accumulation
    sharding = batch_sharding(setup.mesh)
    tokens = 0
    for index in range(accumulation):

        def micro_batch_of(array: np.ndarray, index: int = index) -> jax.Array:
            part = np.array_split(array, accumulation)[index]
            return put(part[None], sharding)[0]

        total, counted = add(total, base, jax.tree.map(micro_batch_of, batch))
        tokens += int(counted)
    mean = jax.jit(
        lambda total: jax.tree.map(lambda leaf: leaf / tokens, total),
        donate_argnums=0,
        out_shardings=shardings,
    )
    return mean(total)


def _task_loss(config: RunConfig, setup: TrainSetup) -> Callable[[Params, Batch], jax.Array]:
    """Make the function (params, micro-batch) -> the mean task loss over the counted tokens."""
    if config.model.task != CLASSIFICATION:
        task = LANGUAGE_TASKS[config.model.task]
        return task.make_task_loss(
            setup.model, setup.spec, head_frozen=setup.head_frozen, mesh=setup.loss_mesh
        )
    logits_of = classification.make_logits(setup.model, setup.spec)
    loss = classification.task_loss(is_regression(config))
    return lambda params, batch: loss(logits_of(params, batch), batch.targets, batch.mask)
