"""Merging adapters into kernels."""

import jax.numpy as jnp
import numpy as np

from balora_jax.adapters import merge


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
