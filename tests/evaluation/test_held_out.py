"""The held-out loss is the mean over all counted tokens, whatever the batches."""

import types

import jax.numpy as jnp
import numpy as np

from balora_jax.adapters import AdapterSpec
from balora_jax.config import MeshConfig
from balora_jax.data import Batch
from balora_jax.evaluation.held_out import HeldOutLoss
from balora_jax.objective.params import Params
from balora_jax.training.sharding import make_mesh


def make_task_loss(model, spec, *, head_frozen, mesh):
    """The mean over counted positions of (input * weight - target)^2."""

    def task_loss(params, batch):
        errors = (batch.input_ids * params.base["w"] - batch.targets) ** 2
        return jnp.sum(errors * batch.mask) / jnp.sum(batch.mask)

    return task_loss


def test_batches_count_by_their_tokens():
    rng = np.random.default_rng(0)
    mask = rng.random((12, 5)) < np.linspace(0.2, 0.9, 12)[:, None]
    whole = Batch(
        input_ids=rng.normal(size=(12, 5)).astype(np.float32),
        attention_mask=np.ones((12, 5), bool),
        targets=rng.normal(size=(12, 5)).astype(np.float32),
        mask=mask,
    )
    params = Params(adapters={}, base={"w": jnp.float32(0.5)})
    mesh = make_mesh(MeshConfig(data=1))
    setup = types.SimpleNamespace(
        model=None, spec=AdapterSpec(1), head_frozen=True, mesh=mesh, loss_mesh=None
    )
    student = types.SimpleNamespace(setup=setup, params=lambda state: params)
    expected = np.mean((0.5 * whole.input_ids - whole.targets)[mask] ** 2)
    for size in (12, 4, 2):

        def batches(size=size):
            for start in range(0, 12, size):
                rows = np.arange(start, start + size)
                yield rows, Batch(*(array[rows] for array in whole[:4]))

        measured = HeldOutLoss(make_task_loss, batches)(student, None)
        np.testing.assert_allclose(measured["loss"], expected, rtol=1e-5)
