"""The average of the trained parameters: its values, its memory, and what is evaluated."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from balora_jax.config import OptimizerConfig
from balora_jax.errors import BadInput
from balora_jax.objective.params import Params
from balora_jax.training.averaging import average_of_parameters, evaluated
from balora_jax.training.optimizer import make_optimizer
from balora_jax.training.state import init_state, partition, trainable_mask


@pytest.fixture
def setting():
    """(trainable, mask) of a small model with adapters and a head."""
    keys = jax.random.split(jax.random.key(0), 3)
    adapters = {"q": {"a": jax.random.normal(keys[0], (5, 2)), "b": jnp.zeros((2, 3))}}
    base = {
        "q": {"kernel": jax.random.normal(keys[1], (5, 3))},
        "head": {"kernel": jax.random.normal(keys[2], (3, 4))},
    }
    params = Params(adapters=adapters, base=base)
    mask = trainable_mask(params, method="lora", head=[("head",)])
    return partition(params, mask)[0], mask


def _train(config, trainable, mask, steps):
    """(trained parameters after each step, the optimizer's last state)."""
    optimizer = make_optimizer(config, steps, mask)
    update = jax.jit(optimizer.update)
    state = optimizer.init(trainable)
    path = []
    for step in range(steps):
        gradients = jax.tree.map(lambda leaf, step=step: 2 + jnp.cos(3 * leaf + step), trainable)
        updates, state = update(gradients, state, trainable)
        trainable = optax.apply_updates(trainable, updates)
        path.append(trainable)
    return path, state


def test_the_average_of_bfloat16_parameters_is_kept_in_float32():
    """Steps of the average are below a rounding of bfloat16, and are not lost."""
    trainable = {"w": jnp.full((3,), 1.0, jnp.bfloat16)}
    average = average_of_parameters(0.999)
    state = average.init(trainable)
    mean = 1.0
    for number in range(1, 101):
        updates = {"w": jnp.full((3,), 1.0 if number == 1 else 0.0, jnp.bfloat16)}
        _, state = average.update(updates, state, trainable)
        trainable = optax.apply_updates(trainable, updates)
        kept = min(0.999, number / (number + 9))
        mean = kept * mean + (1 - kept) * 2.0
    assert state.mean["w"].dtype == jnp.float32
    np.testing.assert_allclose(state.mean["w"], mean, rtol=1e-5)
    result = evaluated(trainable, state)["w"]
    assert result.dtype == jnp.bfloat16
    np.testing.assert_array_equal(result, state.mean["w"].astype(jnp.bfloat16))


@pytest.mark.parametrize("decay", [0.3, 0.999])
def test_the_average_is_that_of_a_float64_reference(setting, decay):
    trainable, mask = setting
    config = OptimizerConfig(
        learning_rate=0.1, schedule="constant", ema_decay=decay, loraplus_lr_ratio=4.0
    )
    path, state = _train(config, trainable, mask, 30)

    mean = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), trainable)
    for number, params in enumerate(path, 1):
        kept = min(decay, number / (number + 9))
        mean = jax.tree.map(
            lambda old, new, kept=kept: kept * old + (1 - kept) * np.asarray(new, np.float64),
            mean, params,
        )  # fmt: skip
    found = evaluated(path[-1], state)
    chex.assert_trees_all_close(found, jax.tree.map(np.float32, mean), atol=2e-6)
    last = path[-1].adapters["q"]["a"]
    assert np.max(np.abs(last - found.adapters["q"]["a"])) > 0.01


def test_the_average_changes_no_update(setting):
    trainable, mask = setting
    plain, state = _train(OptimizerConfig(learning_rate=0.1), trainable, mask, 5)
    averaged, _ = _train(OptimizerConfig(learning_rate=0.1, ema_decay=0.9), trainable, mask, 5)
    chex.assert_trees_all_equal(plain[-1], averaged[-1])
    assert evaluated(plain[-1], state) is plain[-1]


@pytest.mark.parametrize("name", ["adamw", "lion", "adafactor", "muon"])
def test_the_average_takes_the_memory_of_the_trained_parameters_once(setting, name):
    trainable, mask = setting

    def size(decay):
        optimizer = make_optimizer(OptimizerConfig(name=name, ema_decay=decay), 10, mask)
        state = jax.eval_shape(optimizer.init, trainable)
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))

    trained = sum(leaf.nbytes for leaf in jax.tree.leaves(trainable))
    assert size(0.999) - size(None) == trained + 4


def test_the_average_is_no_view_of_the_trained_parameters(setting):
    """A step overwrites the state in place, each of its arrays once."""
    trainable, mask = setting
    optimizer = make_optimizer(OptimizerConfig(ema_decay=0.9), 10, mask)
    state = init_state(trainable, optimizer, seed=0)
    chex.assert_trees_all_equal(state.evaluated, state.trainable)
    pointers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state)]
    assert len(set(pointers)) == len(pointers)


@pytest.mark.parametrize(
    "settings, sentence",
    [
        ({"ema_decay": 1.0}, "ema_decay is 1.0; accepted: null, or a number above 0 and below 1"),
        ({"ema_decay": 0.0}, "ema_decay is 0.0; accepted: null"),
        ({"learning_rates": {"q": 0.0}}, "learning_rates is .*; accepted: a number above 0"),
        ({"learning_rates": {"q": float("nan")}}, "learning_rates is .*; accepted: a number"),
        ({"name": "schedule_free"}, "schedule is 'cosine'; accepted: constant under .*averages"),
        (
            {"name": "schedule_free", "schedule": "constant", "ema_decay": 0.9},
            "ema_decay is 0.9; accepted: null under optimizer.name schedule_free",
        ),
        (
            {"name": "schedule_free", "schedule": "constant", "final": 0.1},
            "final is 0.1; accepted: 0 under optimizer.name schedule_free",
        ),
        (
            {"name": "schedule_free", "schedule": "constant", "b1": 0.0},
            "b1 is 0.0; accepted: a number above 0 under schedule_free",
        ),
    ],
)
def test_settings_without_a_meaning_are_refused(settings, sentence):
    with pytest.raises(BadInput, match=rf"^optimizer\.{sentence}"):
        OptimizerConfig(**settings)
