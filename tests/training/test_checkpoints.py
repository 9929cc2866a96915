"""Checkpoints: the ones that are kept, their contents, and the message for a missing one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from balora_jax.config import OptimizerConfig
from balora_jax.errors import BadInput
from balora_jax.objective.params import Params
from balora_jax.training.checkpoints import Checkpoints
from balora_jax.training.optimizer import make_optimizer
from balora_jax.training.state import init_state, partition, trainable_mask


def _state(value):
    params = Params(
        adapters={"out": {"a": jnp.full((3, 1), value)}},
        base={"out": {"kernel": jnp.ones((3, 2))}},
    )
    mask = trainable_mask(params, method="lora")
    trainable, _ = partition(params, mask)
    return init_state(trainable, make_optimizer(OptimizerConfig(), 10, mask), seed=3)


@pytest.fixture
def saved(tmp_path):
    """Five checkpoints: the second is the best, the last has no score."""
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=1)
    for step, score in [(1, -3.0), (2, -1.0), (3, -2.0), (4, -2.5), (5, None)]:
        checkpoints.save(step, _state(float(step)), {"next_index": step}, score)
    checkpoints.close()
    return Checkpoints(tmp_path / "checkpoints", keep=1)


def test_the_latest_and_the_best_are_kept(saved):
    assert saved.latest() == saved.find("latest") == 5
    assert saved.find("best") == saved.find("2") == 2
    with pytest.raises(BadInput, match="no checkpoint '3'; accepted: latest, best, or of 2, 5"):
        saved.find("3")


@pytest.mark.parametrize("step", [2, 5])
def test_a_checkpoint_restores_the_saved_state(saved, step):
    state, position = saved.restore(_state(0.0), step)
    assert position.step == step and position.data == {"next_index": step}
    jax.tree.map(np.testing.assert_array_equal, state, _state(float(step)))


def test_initial_adapters_are_saved_and_restored(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=1)
    start = {"out": {"a": jnp.arange(6.0).reshape(3, 2)}}
    assert checkpoints.restore_initial(start) is None
    assert checkpoints.restore_initial(None) is None
    checkpoints.save_initial(start)
    np.testing.assert_array_equal(checkpoints.restore_initial(start)["out"]["a"], start["out"]["a"])
