"""Optimizers: optax's own, weight decay, learning rates of their own, LoRA+'s rate of B."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from balora_jax.config import OptimizerConfig
from balora_jax.errors import BadInput
from balora_jax.objective.params import Params
from balora_jax.training.averaging import evaluated
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
    if settings.get("name") == "schedule_free":
        settings = {"schedule": "constant"} | settings
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
    "muon": lambda rate: optax.partition(
        {
            "muon": optax.contrib.muon(
                rate,
                beta=0.8,
                consistent_rms=0.2,
                muon_weight_dimension_numbers=lambda tree: jax.tree.map(
                    lambda _: optax.contrib.MuonDimensionNumbers(-2, -1), tree
                ),
            ),
            "adamw": optax.adamw(rate, b1=0.8, b2=0.95, weight_decay=0.0),
        },
        {"q": {"kernel": "muon", "a": "muon", "bias": "adamw"}},
    ),
    "schedule_free": lambda rate: optax.contrib.schedule_free_adamw(rate, b1=0.8, b2=0.95),
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
        expected, states[1] = jax.jit(theirs.update)(gradients, states[1], params)
        found, states[0] = jax.jit(ours.update)(gradients, states[0], params)
        chex.assert_trees_all_close(found, expected, rtol=1e-6)
        params = optax.apply_updates(params, found)


@pytest.mark.parametrize("name", [name for name in REFERENCES if name != "schedule_free"])
def test_weight_decay_is_a_part_of_the_learning_rate(params, name):
    plain, _ = first_update(params, name=name)
    decayed, _ = first_update(params, name=name, weight_decay=0.3)
    change = jax.tree.map(lambda left, right: left - right, decayed, plain)
    expected = -0.1 * 0.3 * params.base["score"]["kernel"]
    np.testing.assert_allclose(change.base["score"]["kernel"], expected, atol=1e-6)
    assert not np.any(change.base["score"]["bias"])


def test_schedule_free_decays_the_weights_as_optax_does():
    keys = jax.random.split(jax.random.key(2), 2)
    params = {"q": {"a": jax.random.normal(keys[0], (5, 2)), "b": jax.random.normal(keys[1], (2,))}}
    config = OptimizerConfig(
        name="schedule_free", learning_rate=0.01, schedule="constant", warmup=0.4,
        weight_decay=0.3, clip_norm=None,
    )  # fmt: skip
    ours = make_optimizer(config, 10, jax.tree.map(lambda _: True, params))
    theirs = optax.contrib.schedule_free_adamw(learning_rate(config, 10), weight_decay=0.3)
    states = [ours.init(params), theirs.init(params)]
    for step in range(6):
        gradients = jax.tree.map(lambda leaf, step=step: jnp.cos(3 * leaf + step), params)
        expected, states[1] = jax.jit(theirs.update)(gradients, states[1], params)
        found, states[0] = jax.jit(ours.update)(gradients, states[0], params)
        chex.assert_trees_all_close(found, expected, rtol=1e-6)
        params = optax.apply_updates(params, found)
        chex.assert_trees_all_equal(
            evaluated(params, states[0]),
            optax.contrib.schedule_free_eval_params(states[1], params),
        )


def _schedule_free_in_float64(params, gradient, factors, *, rate, b1, b2, eps, steps):
    """y and x of schedule-free AdamW (Defazio et al., eq. 5 to 8) with a factor for each rate."""
    y = {name: np.asarray(leaf, np.float64) for name, leaf in params.items()}
    z = dict(y)
    x = dict(y)
    nu = {name: np.zeros_like(leaf) for name, leaf in y.items()}
    for step in range(1, steps + 1):
        for name in y:
            slope = gradient(y[name], step)
            nu[name] = b2 * nu[name] + (1 - b2) * slope**2
            root = np.sqrt(nu[name] / (1 - b2**step)) + eps
            z[name] = z[name] - rate * factors[name] * slope / root
            x[name] = (1 - 1 / step) * x[name] + z[name] / step
            y[name] = b1 * x[name] + (1 - b1) * z[name]
    return y, x


def test_rates_of_their_own_under_schedule_free_are_those_of_its_steps(params):
    """LoRA+'s B and a head with a rate of its own, against the paper's equations."""
    config = OptimizerConfig(
        name="schedule_free", learning_rate=0.02, schedule="constant", warmup=0.0, clip_norm=None,
        loraplus_lr_ratio=8.0, learning_rates={"score": 0.005},
    )  # fmt: skip
    mask = trainable_mask(params, method="lora", head=[("score",)])
    trainable, _ = partition(params, mask)
    optimizer = make_optimizer(config, 10, mask)
    state = optimizer.init(trainable)
    start = {
        "a": params.adapters["q"]["a"],
        "b": params.adapters["q"]["b"],
        "kernel": params.base["score"]["kernel"],
    }
    for step in range(1, 8):
        gradients = jax.tree.map(lambda leaf, step=step: jnp.cos(3 * leaf + step), trainable)
        updates, state = jax.jit(optimizer.update)(gradients, state, trainable)
        trainable = optax.apply_updates(trainable, updates)
    y, x = _schedule_free_in_float64(
        start, lambda leaf, step: np.cos(3 * leaf + step), {"a": 1, "b": 8, "kernel": 0.25},
        rate=0.02, b1=0.9, b2=0.999, eps=1e-8, steps=7,
    )  # fmt: skip
    for values, found in ((y, trainable), (x, evaluated(trainable, state))):
        np.testing.assert_allclose(found.adapters["q"]["a"], values["a"], atol=1e-5)
        np.testing.assert_allclose(found.adapters["q"]["b"], values["b"], atol=1e-5)
        np.testing.assert_allclose(found.base["score"]["kernel"], values["kernel"], atol=1e-5)


@pytest.mark.parametrize("name", REFERENCES)
def test_a_rate_of_its_own_is_as_if_it_were_the_common_one(params, name):
    settings = {"name": name, "clip_norm": None, "weight_decay": 0.1}
    plain, _ = first_update(params, **settings)
    own, _ = first_update(params, learning_rates={"score": 0.03}, **settings)
    chex.assert_trees_all_close(
        own.base["score"], jax.tree.map(lambda leaf: 0.3 * leaf, plain.base["score"]), rtol=1e-4
    )
    chex.assert_trees_all_close(own.adapters, plain.adapters, rtol=1e-6)


def test_the_first_pattern_that_matches_a_layer_sets_its_rate():
    params = {
        "model": {name: {"kernel": jnp.ones((3, 2))} for name in ("q", "k", "v")},
        "lm_head": {"kernel": jnp.ones((2, 4))},
    }
    rates = {r"model\.[qk]": 0.2, "model": 0.3, "lm_head": 0.4}
    config = OptimizerConfig(learning_rate=0.1, warmup=0.0, clip_norm=None, learning_rates=rates)
    optimizer = make_optimizer(config, 10, jax.tree.map(lambda _: True, params))
    updates, _ = jax.jit(optimizer.update)(params, optimizer.init(params), params)
    sizes = {path[-2].key: float(-leaf.mean()) for path, leaf in _leaves(updates)}
    assert sizes == pytest.approx({"q": 0.2, "k": 0.2, "v": 0.3, "lm_head": 0.4}, rel=1e-4)


def _leaves(tree):
    return jax.tree_util.tree_leaves_with_path(tree)


@pytest.mark.parametrize(
    "pattern, sentence",
    [
        ("embed_tokens", "'embed_tokens' matches no such layer; accepted: of q, score"),
        ("(", r"'\(' is no layer's name and no regular expression"),
    ],
)
def test_a_pattern_without_a_layer_is_refused(params, pattern, sentence):
    with pytest.raises(BadInput, match=f"optimizer.learning_rates: {sentence}"):
        first_update(params, learning_rates={"score": 0.1, pattern: 0.1})


def test_muon_leaves_embeddings_and_heads_to_adamw():
    names = {"lm_head": "kernel", "embed_tokens": "embedding", "q_proj": "kernel", "norm": "scale"}
    params = {
        module: {leaf: jnp.ones(3) if leaf == "scale" else jnp.ones((4, 3))}
        for module, leaf in names.items()
    }
    params["lm_head"] |= {"a": jnp.ones((4, 2)), "b": jnp.ones((2, 3))}
    config = OptimizerConfig(name="muon", warmup=0.0)
    optimizer = make_optimizer(config, 10, jax.tree.map(lambda _: True, params))
    state = optimizer.init(params)
    momenta = next(part for part in jax.tree.leaves(state, is_leaf=_is_muon) if _is_muon(part)).mu
    orthogonalized = {(path[-2].key, path[-1].key) for path, _ in _leaves(momenta)}
    assert orthogonalized == {("q_proj", "kernel"), ("lm_head", "a"), ("lm_head", "b")}


def _is_muon(part):
    return isinstance(part, optax.contrib.MuonState)


def test_a_muon_update_of_each_stacked_layer_is_orthogonal():
    """Its singular values are those of Newton and Schulz's iteration, near 1 times the scale."""
    params = {"layers": {"q": {"a": jax.random.normal(jax.random.key(3), (3, 40, 4))}}}
    config = OptimizerConfig(
        name="muon", learning_rate=0.1, warmup=0.0, clip_norm=None, schedule="constant"
    )
    optimizer = make_optimizer(config, 10, jax.tree.map(lambda _: True, params))
    updates, _ = jax.jit(optimizer.update)(params, optimizer.init(params), params)
    values = np.linalg.svd(updates["layers"]["q"]["a"], compute_uv=False)
    scale = 0.1 * 0.2 * np.sqrt(40)
    assert values.shape == (3, 4)
    assert np.all((0.6 * scale < values) & (values < 1.3 * scale))


def test_the_states_of_other_optimizers_are_smaller():
    params = {"q": {"kernel": jnp.ones((256, 512))}}
    sizes = {}
    for name in REFERENCES:
        config = OptimizerConfig(name=name, schedule="constant")
        optimizer = make_optimizer(config, 10, {"q": {"kernel": True}})
        state = jax.eval_shape(optimizer.init, params)
        sizes[name] = sum(leaf.size for leaf in jax.tree.leaves(state))
    weights = 256 * 512
    assert 2 * weights <= sizes["adamw"] < 2 * weights + 10
    assert weights <= sizes["lion"] < weights + 10
    assert weights <= sizes["muon"] < weights + 20
    assert 2 * weights <= sizes["schedule_free"] < 2 * weights + 10
    assert sizes["adafactor"] < 2 * (256 + 512)
