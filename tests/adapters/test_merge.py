"""Merging adapters into kernels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from balora_jax.adapters import merge, merged_when_read
from balora_jax.adapters.merge import add_product


def test_stacked_kernels_are_merged_a_layer_at_a_time():
    kernel = jnp.ones((3, 4, 5))
    a = jnp.ones((3, 4, 2))
    b = jnp.arange(30.0).reshape(3, 2, 5)
    merged = merge({"layers": {"kernel": kernel}}, {"layers": {"a": a, "b": b}})["layers"]["kernel"]
    for layer in range(3):
        np.testing.assert_allclose(merged[layer], kernel[layer] + a[layer] @ b[layer])


def test_merging_keeps_the_kernel_type():
    params = {"m": {"kernel": jnp.ones((4, 5), jnp.bfloat16)}}
    merged = merge(params, {"m": {"a": jnp.ones((4, 1)), "b": jnp.ones((1, 5))}})
    assert merged["m"]["kernel"].dtype == jnp.bfloat16


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("shape", [(16, 64, 96), (16, 4, 64, 96)])
def test_a_donated_stack_is_overwritten_a_layer_at_a_time(shape, dtype):
    """There are at most two layers in float32; XLA for CPUs copies bfloat16 stacks, as they are."""
    *outer, rows, columns = shape
    params = {"m": {"kernel": jax.ShapeDtypeStruct(shape, dtype)}}
    factors = {
        "a": jax.ShapeDtypeStruct((*outer, rows, 2), jnp.float32),
        "b": jax.ShapeDtypeStruct((*outer, 2, columns), jnp.float32),
    }
    program = jax.jit(merge, donate_argnums=0).lower(params, {"m": factors}).compile()
    memory = program.memory_analysis()
    layer = 4 * np.prod(shape[1:])
    copied = 0 if dtype == jnp.float32 else 2 * np.prod(shape)
    assert memory.temp_size_in_bytes <= copied + 2.2 * layer


@pytest.mark.parametrize("shape", [(5, 4), (3, 5, 4), (3, 2, 5, 4)])
def test_kernels_of_any_rank_against_numpy(shape):
    draw = np.random.default_rng(0).standard_normal
    kernel = draw(shape).astype(np.float32)
    a = draw((*shape[:-1], 2)).astype(np.float32)
    b = draw((*shape[:-2], 2, shape[-1])).astype(np.float32)
    expected = kernel.astype(np.float64) - 0.5 * a.astype(np.float64) @ b
    np.testing.assert_allclose(add_product(kernel, a, b, -0.5), expected, atol=1e-6)


def test_a_kernel_merged_when_it_is_read():
    draw = np.random.default_rng(0).standard_normal
    params = {
        "layers": {"kernel": jnp.asarray(draw((3, 5, 4)), jnp.float32), "bias": jnp.ones((3, 4))},
        "head": {"kernel": jnp.asarray(draw((5, 4)), jnp.bfloat16)},
        "table": {"embedding": jnp.asarray(draw((7, 5)), jnp.float32)},
    }
    lora = {
        "layers": {"a": jnp.asarray(draw((3, 5, 2))), "b": jnp.asarray(draw((3, 2, 4)))},
        "head": {"a": jnp.asarray(draw((5, 2))), "b": jnp.asarray(draw((2, 4)))},
        "table": {"a": jnp.asarray(draw((7, 2))), "b": jnp.asarray(draw((2, 5)))},
    }
    merged = merge(params, lora)
    read = merged_when_read(params, lora)
    assert read["layers"]["bias"] is params["layers"]["bias"]
    for layer in range(3):
        part = read["layers"]["kernel"][(layer,)]
        np.testing.assert_allclose(part, merged["layers"]["kernel"][layer], atol=1e-6)
    for module, leaf in (("head", "kernel"), ("table", "embedding")):
        whole = read[module][leaf]
        assert (whole.shape, whole.dtype) == (
            params[module][leaf].shape,
            params[module][leaf].dtype,
        )
        np.testing.assert_allclose(
            whole[()].astype(jnp.float32), merged[module][leaf].astype(jnp.float32), atol=1e-6
        )
