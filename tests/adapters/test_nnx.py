"""Adapters on NNX modules: lists of layers, merged kernels, and training of the adapters alone."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from balora_jax import adapters
from balora_jax.adapters.nnx import apply, split
from balora_jax.errors import BadInput
from balora_jax.regularizers import nlg

IDS = jax.random.randint(jax.random.key(1), (4, 9), 0, 50)


class Model(nnx.Module):
    def __init__(self, rngs):
        self.embed = nnx.Embed(50, 16, rngs=rngs)
        self.layers = nnx.List([nnx.Linear(16, 16, rngs=rngs) for _ in range(11)])
        self.dropout = nnx.Dropout(0.0, rngs=rngs)
        self.out = nnx.Linear(16, 50, rngs=rngs)

    def features(self, ids):
        x = self.embed(ids)
        for layer in self.layers:
            x = x + jnp.tanh(layer(x))
        return self.dropout(x)

    def __call__(self, ids):
        return self.out(self.features(ids))


@pytest.fixture
def parts():
    return split(Model(nnx.Rngs(0)))


@pytest.fixture
def start(parts):
    """PiSSA's factors of all layers of the list, of which number 10 comes after 9."""
    paths = adapters.match_targets([r"layers\.\d+"], parts.params)
    assert set(paths) == {("layers", number) for number in range(11)}
    spec = adapters.AdapterSpec(rank=4)
    key = jax.random.key(0)
    return spec, adapters.init_pissa(parts.params, paths, 4, scale=spec.scale, niter=16, key=key)


def test_the_module_itself_and_its_methods(parts):
    module = Model(nnx.Rngs(0))
    np.testing.assert_array_equal(apply(parts, {}, IDS), module(IDS))
    features = apply(parts, {}, IDS, method="features")
    np.testing.assert_array_equal(features, module.features(IDS))


def test_adapters_are_in_the_kernels(parts, start):
    spec, first = start
    moved = jax.tree.map(lambda leaf: 1.1 * leaf, first)
    lora = adapters.student_lora(moved, first, spec)
    module = Model(nnx.Rngs(0))
    for number, layer in enumerate(module.layers):
        a, b = lora["layers"][number]["a"], lora["layers"][number]["b"]
        layer.kernel[...] = layer.kernel[...] + a @ b
    np.testing.assert_allclose(apply(parts, lora, IDS), module(IDS), atol=1e-5)
    # The parts are as before, also after a trace.
    jax.jit(lambda lora: apply(parts, lora, IDS))(lora)
    np.testing.assert_array_equal(apply(parts, {}, IDS), Model(nnx.Rngs(0))(IDS))


def test_a_loop_of_ones_own_trains_the_adapters(parts, start):
    spec, first = start
    inputs, targets = IDS[:, :-1], IDS[:, 1:]
    mask = jnp.ones(targets.shape, bool)
    teacher = apply(parts, {}, inputs)

    def loss(trained):
        logits = apply(parts, adapters.student_lora(trained, first, spec), inputs)
        task = optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()
        return task + 0.1 * nlg.consistency(logits, teacher, mask, temperature=2.0)

    optimizer = optax.adam(1e-2)

    @jax.jit
    def step(trained, state):
        value, gradients = jax.value_and_grad(loss)(trained)
        updates, state = optimizer.update(gradients, state, trained)
        return optax.apply_updates(trained, updates), state, value

    trained, state = first, optimizer.init(first)
    losses = []
    for _ in range(20):
        trained, state, value = step(trained, state)
        losses.append(float(value))
    assert losses[-1] < losses[0] - 0.3


def test_adapters_that_do_not_fit(parts):
    misfit = {"layers": {0: {"a": jnp.ones((3, 2)), "b": jnp.ones((2, 16))}}}
    with pytest.raises(BadInput, match=r"layers.0: a \[3, 2\] and b \[2, 16\] do not make"):
        apply(parts, misfit, IDS)
