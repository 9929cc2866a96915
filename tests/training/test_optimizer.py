"""Optimizers: optax's own, weight decay, learning rates, and LoRA+'s learning rate of B."""

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
    """(updates, optimizer state) after one step on gradients that depend on the parameters."""
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
def test_loraplus_multiplies_the_update_of_b_alone(params, weight_decay, ratio, clip_norm):
    settings = {"weight_decay": weight_decay, "clip_norm": clip_norm}
    plain, _ = first_update(params, **settings)
    plus, _ = first_update(params, loraplus_lr_ratio=ratio, **settings)
    np.testing.assert_allclose(plus.adapters["q"]["b"], ratio * plain.adapters["q"]["b"], rtol=1e-6)
    np.testing.assert_array_equal(plus.adapters["q"]["a"], plain.adapters["q"]["a"])
    chex.assert_trees_all_equal(plus.base, plain.base)
    assert np.any(plain.base["score"]["kernel"])


def test_at_ratio_1_the_state_is_that_of_plain_adamw(params):
    """Checkpoints of runs without LoRA+ have this structure."""
    mask = trainable_mask(params, method="lora", head=[("score",)])
    trainable, _ = partition(params, mask)
    config = OptimizerConfig()

    def decayed(tree):
        return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key != "bias", tree)

    adamw = optax.adamw(learning_rate(config, 10), weight_decay=0.0, mask=decayed)
    expected = optax.masked(optax.chain(optax.clip_by_global_norm(1.0), adamw), mask)
    _, state = first_update(params, loraplus_lr_ratio=1.0)
    assert jax.tree.structure(state) == jax.tree.structure(expected.init(trainable))


def test_weight_decay_spares_norms_and_biases():
    params = {
        "kernel": jnp.ones((2, 2)),
        "scale": jnp.ones(2),
        "bias": jnp.ones(2),
        "a": jnp.ones(2),
    }
    config = OptimizerConfig(learning_rate=0.1, warmup=0.0, weight_decay=0.5, clip_norm=None)
    optimizer = make_optimizer(config, 10, jax.tree.map(lambda _: True, params))
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    changed = {name: bool(jnp.any(update != 0)) for name, update in updates.items()}
    assert changed == {"kernel": True, "a": True, "scale": False, "bias": False}


@pytest.mark.parametrize(
    "schedule, expected",
    [
        ("cosine", [1 / 3, 2 / 3, 1, 0.55, 0.1]),
        ("linear", [1 / 3, 2 / 3, 1, 0.55, 0.1]),
        ("constant", [1 / 3, 2 / 3, 1, 1, 1]),
    ],
)
def test_learning_rates(schedule, expected):
    """The rates at steps 0, 1, 2, 6 and 10, with two steps of warm-up and a final tenth."""
    rate = learning_rate(
        OptimizerConfig(learning_rate=1.0, schedule=schedule, warmup=0.2, final=0.1), 10
    )
    np.testing.assert_allclose([rate(step) for step in (0, 1, 2, 6, 10)], expected, rtol=1e-6)


REFERENCES = {
    "adamw": lambda rate: optax.adamw(rate, b1=0.8, b2=0.95, weight_decay=0.0),
    "lion": lambda rate: optax.lion(rate, b1=0.8, b2=0.95, weight_decay=0.0),
    "adafactor": lambda rate: optax.adafactor(rate, multiply_by_parameter_scale=False),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_updates_are_those_of_optax(name):
    """Of a large matrix, which Adafactor factors, a small one and a vector."""
    keys = jax.random.split(jax.random.key(1), 3)
    shapes = {"kernel": (3, 130, 140), "a": (5, 2), "bias": (7,)}
    params = {
        "q": {n: jax.random.normal(k, s) for (n, s), k in zip(shapes.items(), keys, strict=True)}
    }
    settings = {"b1": 0.8, "b2": 0.95, "clip_norm": None, "schedule": "constant", "warmup": 0.0}
    config = OptimizerConfig(name=name, learning_rate=0.01, **settings)
    ours = make_optimizer(config, 10, jax.tree.map(lambda _: True, params))
    theirs = REFERENCES[name](0.01)
    states = [ours.init(params), theirs.init(params)]
    for step in range(4):
        gradients = jax.tree.map(lambda leaf, step=step: jnp.cos(3 * leaf + step), params)
        expected, states[1] = theirs.update(gradients, states[1], params)
        found, states[0] = ours.update(gradients, states[0], params)
        chex.assert_trees_all_close(found, expected, rtol=1e-6)
        params = optax.apply_updates(params, found)


@pytest.mark.parametrize("name", REFERENCES)
def test_weight_decay_is_a_part_of_the_learning_rate(params, name):
    plain, _ = first_update(params, name=name)
    decayed, _ = first_update(params, name=name, weight_decay=0.3)
    change = jax.tree.map(lambda left, right: left - right, decayed, plain)
    expected = -0.1 * 0.3 * params.base["score"]["kernel"]
    np.testing.assert_allclose(change.base["score"]["kernel"], expected, atol=1e-6)
    assert not np.any(change.base["score"]["bias"])


def test_the_states_of_other_optimizers_are_smaller():
    params = {"q": {"kernel": jnp.ones((256, 512))}}
    sizes = {}
    for name in REFERENCES:
        optimizer = make_optimizer(OptimizerConfig(name=name), 10, {"q": {"kernel": True}})
        state = jax.eval_shape(optimizer.init, params)
        sizes[name] = sum(leaf.size for leaf in jax.tree.leaves(state))
    weights = 256 * 512
    assert 2 * weights <= sizes["adamw"] < 2 * weights + 10
    assert weights <= sizes["lion"] < weights + 10
    assert sizes["adafactor"] < 2 * (256 + 512)
