"""Adapters on a plain Linen network, and the check of their paths."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from balora_jax.adapters.linen import Adapted, check_lora_paths
from balora_jax.errors import BadInput


class Network(nn.Module):
    """Two dense layers that have no code for adapters."""

    @nn.compact
    def __call__(self, x, scale=1.0):
        x = nn.relu(nn.Dense(7, name="first")(x))
        return scale * nn.Dense(3, name="second")(x)


def side_path(params, lora, x):
    """The network's output, with every adapted layer as x W + (x A) B + bias."""

    def dense(name, x):
        out = x @ params[name]["kernel"] + params[name]["bias"]
        return out + (x @ lora[name]["a"]) @ lora[name]["b"] if name in lora else out

    return dense("second", nn.relu(dense("first", x)))


@pytest.fixture
def case():
    """(params, lora, x): a network with adapters on both layers, and an input [4, 5]."""
    keys = jax.random.split(jax.random.key(0), 6)
    x = jax.random.normal(keys[0], (4, 5))
    params = Network().init(keys[1], x)["params"]
    lora = {
        "first": {"a": jax.random.normal(keys[2], (5, 2)), "b": jax.random.normal(keys[3], (2, 7))},
        "second": {
            "a": jax.random.normal(keys[4], (7, 2)),
            "b": jax.random.normal(keys[5], (2, 3)),
        },
    }
    return params, lora, x


@pytest.mark.parametrize("targets", [["first"], ["second"], ["first", "second"], []])
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit])
def test_adapted_equals_the_side_path(case, targets, wrap):
    params, lora, x = case
    lora = {name: lora[name] for name in targets}
    apply = wrap(lambda p, a, x: Adapted(Network()).apply({"params": p, "lora": a}, x))
    np.testing.assert_allclose(
        apply(params, lora, x), side_path(params, lora, x), rtol=1e-5, atol=1e-5
    )


def test_gradients_reach_the_adapters(case):
    params, lora, x = case
    ours = jax.grad(
        lambda a: jnp.sum(Adapted(Network()).apply({"params": params, "lora": a}, x) ** 2)
    )(lora)
    theirs = jax.grad(lambda a: jnp.sum(side_path(params, a, x) ** 2))(lora)
    for left, right in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-4)
        assert np.abs(right).max() > 0


def test_without_adapters_keyword_arguments_pass_through(case):
    params, _, x = case
    plain = Network().apply({"params": params}, x, scale=2.0)
    np.testing.assert_array_equal(Adapted(Network()).apply({"params": params}, x, scale=2.0), plain)


def test_init_gives_the_inner_parameters(case):
    params, _, x = case
    fresh = Adapted(Network()).init(jax.random.key(1), x)["params"]
    assert jax.tree.map(jnp.shape, fresh) == jax.tree.map(jnp.shape, params)


BAD_ADAPTERS = {
    "unknown path": (
        {"first": {"frist": {"a": (5, 2), "b": (2, 7)}}},
        "first.frist: the model has no kernel",
    ),
    "no b": ({"first": {"a": (5, 2)}}, "first: needs both a and b"),
    "another name": ({"first": {"a": (5, 2), "b": (2, 7), "c": (1,)}}, "first.c: only a and b"),
    "input size": ({"first": {"a": (6, 2), "b": (2, 7)}}, r"a \[6, 2\] and b \[2, 7\] do not make"),
    "output size": ({"first": {"a": (5, 2), "b": (2, 8)}}, "do not make"),
    "two ranks": ({"first": {"a": (5, 2), "b": (3, 7)}}, "do not make"),
}


@pytest.mark.parametrize("name", BAD_ADAPTERS)
def test_adapters_that_do_not_fit_are_refused(case, name):
    params, _, x = case
    shapes, message = BAD_ADAPTERS[name]
    lora = jax.tree.map(jnp.zeros, shapes, is_leaf=lambda leaf: isinstance(leaf, tuple))
    with pytest.raises(BadInput, match=message):
        check_lora_paths(lora, params)
    with pytest.raises(BadInput, match=message):
        Adapted(Network()).apply({"params": params, "lora": lora}, x)


def test_the_message_names_every_misfit(case):
    params, lora, _ = case
    with pytest.raises(BadInput, match=r"third.*fourth|fourth.*third"):
        check_lora_paths({"third": lora["first"], "fourth": lora["second"]}, params)
