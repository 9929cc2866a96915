"""LoRA+: a learning rate of B's own, on the adapters alone."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from balora_jax.config import OptimizerConfig
from balora_jax.objective.params import Params
from balora_jax.training.optimizer import learning_rate, make_optimizer
from balora_jax.training.state import partition, trainable_mask


@pytest.fixture
def params():
    keys = jax.random.split(jax.random.key(0), 4)
    kernel = jax.random.normal(keys[0], (5, 3))
    a = jax.random.normal(keys[1], (5, 2))
    b = jax.random.normal(keys[2], (2, 3))
    return Params(
        adapters={"q": {"a": a, "b": b}},
        base={"score": {"kernel": kernel, "bias": jnp.ones(3)}, "q": {"kernel": kernel}},
    )


def first_update(params, **settings):
    config = OptimizerConfig(learning_rate=0.1, warmup=0.0, **settings)
    mask = trainable_mask(params, method="lora", head=[("score",)])
    trainable, _ = partition(params, mask)
    optimizer = make_optimizer(config, 10, mask)
    gradients = jax.tree.map(lambda leaf: jnp.cos(3 * leaf), trainable)
    state = optimizer.init(trainable)
    updates, state = jax.jit(optimizer.update)(gradients, state, trainable)
    return updates, state


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
@pytest.mark.parametrize("ratio", [16.0, 0.5])
@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_only_b_moves_by_the_ratio(params, weight_decay, ratio, clip_norm):
    settings = {"weight_decay": weight_decay, "clip_norm": clip_norm}
    plain, _ = first_update(params, **settings)
    plus, _ = first_update(params, loraplus_lr_ratio=ratio, **settings)
    np.testing.assert_allclose(plus.adapters["q"]["b"], ratio * plain.adapters["q"]["b"], rtol=1e-6)
    np.testing.assert_array_equal(plus.adapters["q"]["a"], plain.adapters["q"]["a"])
    chex.assert_trees_all_equal(plus.base, plain.base)
    assert np.any(plain.base["score"]["kernel"])


def test_at_ratio_1_the_state_is_that_of_plain_adamw(params):
    """Checkpoints of runs without the option have this structure."""
    mask = trainable_mask(params, method="lora", head=[("score",)])
    trainable, _ = partition(params, mask)
    config = OptimizerConfig()

    def decayed(tree):
        return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key != "bias", tree)

    adamw = optax.adamw(learning_rate(config, 10), weight_decay=0.0, mask=decayed)
    expected = optax.masked(optax.chain(optax.clip_by_global_norm(1.0), adamw), mask)
    _, state = first_update(params, loraplus_lr_ratio=1.0)
    assert jax.tree.structure(state) == jax.tree.structure(expected.init(trainable))
