"""The TPU's kernel, interpreted on the CPU, against the plain form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from balora_jax.models.layers import splash_attention
from balora_jax.models.layers.mask import AttentionMask
from balora_jax.models.layers.packing import Packing
from balora_jax.models.layers.plain_attention import attend_plainly
from balora_jax.models.layers.splash_attention import attend_by_splash

BATCH = 2
LENGTH = 200
INDEX = np.arange(LENGTH)[None]
FULL = np.ones((BATCH, LENGTH), bool)
RIGHT = np.repeat(INDEX, BATCH, 0) < np.array([[LENGTH], [140]])
LEFT = RIGHT[:, ::-1]
SEGMENTS = np.where(RIGHT, 1 + (INDEX >= 30) + (INDEX >= 110), 0)


def causal(key_mask):
    positions = np.maximum(np.cumsum(key_mask, axis=-1) - 1, 0)
    return AttentionMask.causal(positions, positions, key_mask, is_ordered=True)


# A window that starts before the texts do, shorter than a block, and longer than one.
MASKS = {
    "causal": causal(FULL),
    "padded right": causal(RIGHT),
    "padded left": causal(LEFT),
    "window 5": causal(RIGHT).with_window(5),
    "window 150": causal(RIGHT).with_window(150),
    "segments": causal(RIGHT).with_segments(SEGMENTS),
    "segments and window": causal(RIGHT).with_segments(SEGMENTS).with_window(20),
}


def arrays(heads, kv_heads, dtype):
    rng = np.random.default_rng(0)
    counts = (heads, kv_heads, kv_heads, heads)
    return [jnp.asarray(rng.normal(size=(BATCH, LENGTH, n, 128)), dtype) for n in counts]


def check(mask, inputs, softcap=None, tolerance=1e-5, mesh=None):
    """Compare outputs and gradients at tokens."""
    *inputs, cotangent = inputs
    cotangent = jnp.where(mask.key_mask[:, :, None, None], cotangent, 0)

    def output_and_gradients(attention, **options):
        @jax.jit
        def run(inputs):
            def attended(*arrays):
                return attention(*arrays, mask, scale=0.1, softcap=softcap, **options)

            output, backward = jax.vjp(attended, *inputs)
            return output, *backward(cotangent)

        return run(inputs)

    ours = output_and_gradients(attend_by_splash, interpret=True, mesh=mesh)
    expected = output_and_gradients(attend_plainly)
    for one, other in zip(ours, expected, strict=True):
        assert one.dtype == other.dtype
        one = np.where(mask.key_mask[:, :, None, None], one, 0).astype(np.float32)
        other = np.where(mask.key_mask[:, :, None, None], other, 0).astype(np.float32)
        assert np.abs(one - other).max() <= tolerance * max(1, np.abs(other).max())


@pytest.mark.parametrize("name", MASKS)
def test_masks(name):
    mask = MASKS[name]
    inputs = arrays(2, 1, jnp.float32)
    assert splash_attention.fits(inputs[0], inputs[1], mask, None)
    check(mask, inputs)


@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (4, 2)])
def test_groups_of_heads_and_soft_cap(heads, kv_heads):
    check(MASKS["segments"], arrays(heads, kv_heads, jnp.float32), softcap=2.0)


def test_bfloat16():
    """Queries are rounded once more, after the factor of the scores."""
    check(MASKS["padded right"], arrays(2, 1, jnp.bfloat16), tolerance=2e-2)


def test_a_mesh_divides_batch_and_heads():
    mesh = jax.make_mesh((1, 2, 2), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
    inputs = arrays(4, 2, jnp.float32)
    assert splash_attention.fits(inputs[0], inputs[1], MASKS["segments"], mesh)
    check(MASKS["segments"], inputs, mesh=mesh)


def test_masks_and_meshes_that_do_not_fit():
    query, key, *_ = arrays(2, 1, jnp.float32)
    fits = functools.partial(splash_attention.fits, query, key)
    positions = jnp.zeros((BATCH, LENGTH), jnp.int32)
    assert not fits(AttentionMask.causal(positions, positions, FULL), None)
    assert not fits(AttentionMask.packed(Packing(positions, ends=positions), FULL), None)
    # Such a mask may be that of other queries, as of T5's answers to its questions.
    assert not fits(AttentionMask.padding(FULL), None)
    with jax.default_matmul_precision("tensorfloat32"):
        assert not fits(MASKS["causal"], None)
    one_head_on_two = jax.make_mesh((1, 1, 2), ("data", "fsdp", "tensor"))
    two_rows_on_four = jax.make_mesh((2, 2, 1), ("data", "fsdp", "tensor"))
    assert not fits(MASKS["causal"], one_head_on_two)
    assert not fits(MASKS["causal"], two_rows_on_four)
