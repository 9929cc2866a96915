"""A kernel divided over fsdp and gathered for its products: the same values, no more work."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from balora_jax.models.layers.dense import Dense
from balora_jax.models.layers.options import LayerOptions
from balora_jax.models.layers.stack import REMAT_POLICIES

SIZES = (8, 6, 16, 24)


def _mesh(*sizes):
    return jax.make_mesh(sizes, ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)


def _case(dtype):
    """Inputs [8, 6, 16], a kernel [16, 24] and what its output is multiplied by."""
    batch, length, inputs, outputs = SIZES
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (batch, length, inputs), dtype)
    kernel = jax.random.normal(keys[1], (inputs, outputs))
    return x, kernel, jax.random.normal(keys[2], (batch, length, outputs))


def _loss(mesh, dtype, weights, out_dtype=None):
    dense = Dense(SIZES[-1], LayerOptions(dtype=dtype, mesh=mesh), out_dtype=out_dtype)

    def loss(x, kernel):
        y = dense.apply({"params": {"kernel": kernel}}, x)
        return jnp.sum(jnp.sin(y.astype(jnp.float32)) * weights)

    return loss


@pytest.mark.parametrize("sizes", [(1, 8, 1), (2, 4, 1), (2, 2, 2)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-5), (jnp.bfloat16, 2e-2)])
@pytest.mark.parametrize("out_dtype", [None, jnp.float32])
def test_values_and_gradients_are_those_of_one_device(sizes, dtype, tolerance, out_dtype):
    x, kernel, weights = _case(dtype)
    mesh = _mesh(*sizes)
    expected = jax.jit(jax.value_and_grad(_loss(None, dtype, weights, out_dtype), (0, 1)))(
        x, kernel
    )
    x = jax.device_put(x, NamedSharding(mesh, P(("data", "fsdp"))))
    kernel = jax.device_put(kernel, NamedSharding(mesh, P("fsdp", "tensor")))
    actual = jax.jit(jax.value_and_grad(_loss(mesh, dtype, weights, out_dtype), (0, 1)))(x, kernel)
    for ours, theirs in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert ours.dtype == theirs.dtype
        ours, theirs = (np.asarray(array, np.float64) for array in (ours, theirs))
        assert np.linalg.norm(ours - theirs) <= tolerance * np.linalg.norm(theirs)


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-5), (jnp.bfloat16, 2e-2)])
def test_an_adapter_is_gathered_and_its_gradient_divided(dtype, tolerance):
    x, kernel, weights = _case(dtype)
    keys = jax.random.split(jax.random.key(1), 2)
    a = jax.random.normal(keys[0], (SIZES[2], 4))
    b = jax.random.normal(keys[1], (4, SIZES[3]))
    mesh = _mesh(1, 8, 1)

    def value_and_gradients(mesh):
        dense = Dense(SIZES[-1], LayerOptions(dtype=dtype, mesh=mesh))

        def loss(x, a, b):
            y = dense.apply({"params": {"kernel": kernel}, "lora": {"a": a, "b": b}}, x)
            return jnp.sum(jnp.sin(y.astype(jnp.float32)) * weights)

        return jax.value_and_grad(loss, (0, 1, 2))

    expected = jax.jit(value_and_gradients(None))(x, a, b)
    specs = P(("data", "fsdp")), P("fsdp"), P(None, "fsdp")
    placed = [
        jax.device_put(array, NamedSharding(mesh, spec))
        for array, spec in zip((x, a, b), specs, strict=True)
    ]
    shardings = NamedSharding(mesh, P()), tuple(array.sharding for array in placed)
    divided = jax.jit(value_and_gradients(mesh), out_shardings=shardings)
    actual = divided(*placed)
    for ours, theirs in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert ours.dtype == theirs.dtype
        ours, theirs = (np.asarray(array, np.float64) for array in (ours, theirs))
        assert np.linalg.norm(ours - theirs) <= tolerance * np.linalg.norm(theirs)
    # The kernel and both factors, in the forward and in the backward pass.
    traced = str(jax.make_jaxpr(value_and_gradients(mesh))(x, a, b))
    assert traced.count("sharding_constraint[") == 2 * 3


def _products(function, *arguments):
    return str(jax.make_jaxpr(function)(*arguments)).count("dot_general[")


def test_remat_keeps_the_product_where_it_keeps_products():
    x, kernel, weights = _case(jnp.float32)
    loss = _loss(_mesh(1, 8, 1), jnp.float32, weights)
    products = {
        remat: _products(jax.grad(jax.checkpoint(loss, policy=policy)), x, kernel)
        for remat, policy in REMAT_POLICIES.items()
    }
    assert products["dots"] == _products(jax.grad(loss), x, kernel) == products["full"] - 1


def test_a_scan_over_layers_keeps_no_whole_kernels():
    """Also where the weights are cast: then a cast kernel would be kept, on every device."""
    layers, size = 8, 256
    mesh = _mesh(1, 8, 1)
    x = jax.random.normal(jax.random.key(0), (8, 4, size), jnp.bfloat16)
    kernels = jax.random.normal(jax.random.key(1), (layers, size, size))
    shardings = NamedSharding(mesh, P(("data", "fsdp"))), NamedSharding(mesh, P(None, "fsdp"))

    def temporaries(**settings):
        dense = Dense(size, LayerOptions(dtype=jnp.bfloat16, mesh=mesh), **settings)

        def loss(x, kernels):
            def layer(x, kernel):
                return jnp.tanh(dense.apply({"params": {"kernel": kernel}}, x)), None

            return jnp.sum(jax.lax.scan(layer, x, kernels)[0].astype(jnp.float32))

        compiled = jax.jit(jax.grad(loss, (0, 1)), in_shardings=shardings, out_shardings=shardings)
        return compiled.lower(x, kernels).compile().memory_analysis().temp_size_in_bytes

    whole_kernels = layers * size * size * 2
    assert temporaries() < temporaries(gathers=False) + whole_kernels / 2


@pytest.mark.parametrize("tokens", [1, 2])
def test_a_model_that_generates_gathers_nothing(tokens):
    dense = Dense(SIZES[-1], LayerOptions(mesh=_mesh(1, 8, 1)))
    x = jnp.ones((8, tokens, SIZES[2]))
    kernel = jnp.ones((SIZES[2], SIZES[3]))
    traced = jax.make_jaxpr(lambda x: dense.apply({"params": {"kernel": kernel}}, x))(x)
    assert ("sharding_constraint[" in str(traced)) == (tokens > 1)


def test_nothing_gathered_is_kept_for_the_backward_pass():
    """Of a frozen kernel its part alone: neither the whole kernel nor the inputs."""
    x, kernel, _ = _case(jnp.float32)
    mesh = _mesh(1, 8, 1)
    dense = Dense(SIZES[-1], LayerOptions(mesh=mesh))

    def forward(x, kernel):
        y, pull = jax.vjp(lambda x: dense.apply({"params": {"kernel": kernel}}, x), x)
        return y, pull

    shardings = NamedSharding(mesh, P(("data", "fsdp"))), NamedSharding(mesh, P("fsdp"))
    compiled = jax.jit(forward, in_shardings=shardings).lower(x, kernel).compile()
    _, pull = compiled(*jax.device_put((x, kernel), shardings))
    kept = [leaf for leaf in jax.tree.leaves(pull) if leaf.size > 1]
    assert [leaf.shape for leaf in kept] == [kernel.shape]
    assert kept[0].sharding.shard_shape(kernel.shape) == (SIZES[2] // 8, SIZES[3])
    assert len(re.findall(r" all-gather(?:-start)?\(", compiled.as_text())) == 1
