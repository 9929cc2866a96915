"""The chunked form against the plain one: values, gradients, blocks that are left out."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from balora_jax.models.layers.chunked_attention import attend_in_chunks
from balora_jax.models.layers.mask import AttentionMask
from balora_jax.models.layers.mask_blocks import MaskBlocks
from balora_jax.models.layers.packing import Packing
from balora_jax.models.layers.plain_attention import attend_plainly

BATCH = 2
LENGTH = 37
BLOCKS = {"query_block": 8, "key_block": 16}


def positions(key_mask):
    return jnp.maximum(jnp.cumsum(key_mask, axis=-1) - 1, 0)


def causal(key_mask, **options):
    places = positions(key_mask)
    return AttentionMask.causal(places, places, key_mask, **options)


def padded(left, right):
    """Masks of rows with padding on both sides; the second row has the double."""
    index = np.arange(LENGTH)
    rows = [(index >= n * left) & (index < LENGTH - n * right) for n in (1, 2)]
    return jnp.asarray(rows)


def segments():
    """Texts of 11, 3 and 17 tokens in the first row, of 20 and 17 in the second; padding is 0."""
    ids = [[1] * 11 + [2] * 3 + [3] * 17 + [0] * 6, [1] * 20 + [2] * 17]
    places = [[*range(11), *range(3), *range(17), *[0] * 6], [*range(20), *range(17)]]
    ids = jnp.asarray(ids)
    places = jnp.asarray(places)
    mask = AttentionMask.causal(places, places, ids > 0, is_ordered=True)
    return mask.with_segments(ids)


def tries():
    """A beginning of 20 tokens with two continuations, and a text of 7; then 30 tokens alone."""
    ends = [[37 - 7] * 20 + [25] * 5 + [30] * 5 + [37] * 7, [30] * 30 + [0] * 7]
    places = [[*range(20), *range(20, 25), *range(20, 25), *range(7)], [*range(30), *[0] * 7]]
    return AttentionMask.packed(
        Packing(jnp.asarray(places), ends=jnp.asarray(ends)), jnp.asarray(ends) > 0
    )


FULL = jnp.ones((BATCH, LENGTH), bool)
MASKS = {
    "all": AttentionMask.padding(FULL),
    "padding": AttentionMask.padding(padded(3, 9)),
    "empty queries": AttentionMask.padding(padded(3, 9), query_mask=padded(3, 9)),
    "empty row": AttentionMask.padding(padded(0, 19)),
    "causal": causal(FULL),
    "padded right": causal(padded(0, 9)),
    "padded left": causal(padded(9, 0)),
    "window": causal(FULL).with_window(5),
    "traced window": causal(padded(5, 0)).with_window(jnp.int32(13)),
    "window both ways": AttentionMask.padding(FULL)
    .replace(query_positions=positions(FULL), key_positions=positions(FULL))
    .with_window(7),
    "segments": segments(),
    "segments and window": segments().with_window(4),
    "tries": tries(),
}


def arrays(heads, kv_heads, dtype, queries=LENGTH, keys=LENGTH):
    rng = np.random.default_rng(0)
    shapes = [(queries, heads), (keys, kv_heads), (keys, kv_heads), (queries, heads)]
    return [
        jnp.asarray(rng.normal(size=(BATCH, length, count, 8)), dtype) for length, count in shapes
    ]


def output_and_gradients(attention, mask, inputs, bias=None):
    """The output, and the gradients of query, key, value and bias."""
    *inputs, cotangent = inputs

    @jax.jit
    def run(inputs, bias, mask):
        def attended(query, key, value, bias):
            return attention(query, key, value, mask, scale=0.6, bias=bias)

        output, backward = jax.vjp(attended, *inputs, bias)
        return output, backward(cotangent)

    return jax.tree.map(np.asarray, run(inputs, bias, mask))


def check(mask, inputs, bias=None, softcap=None, tolerance=2e-5):
    plain = functools.partial(attend_plainly, softcap=softcap)
    chunked = functools.partial(attend_in_chunks, softcap=softcap, **BLOCKS)
    expected = output_and_gradients(plain, mask, inputs, bias)
    ours = output_and_gradients(chunked, mask, inputs, bias)
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        assert one.dtype == other.dtype
        one = one.astype(np.float32)
        other = other.astype(np.float32)
        assert np.abs(one - other).max() <= tolerance * max(1, np.abs(other).max())


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_values_and_gradients_equal_the_plain_form(name, kv_heads):
    """Rows without a key, and those of padding, included."""
    check(MASKS[name], arrays(4, kv_heads, jnp.float32))


@pytest.mark.parametrize("name", ["padding", "traced window", "segments"])
def test_soft_caps(name):
    check(MASKS[name], arrays(4, 2, jnp.float32), softcap=1.5)


@pytest.mark.parametrize("batch", [1, BATCH])
@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("name", ["padded left", "empty queries"])
def test_biases(name, softcap, batch):
    rng = np.random.default_rng(1)
    bias = jnp.asarray(rng.normal(size=(batch, 4, LENGTH, LENGTH)), jnp.float32)
    check(MASKS[name], arrays(4, 2, jnp.float32), bias, softcap)


@pytest.mark.parametrize("name", ["causal", "segments"])
def test_bfloat16(name):
    """Within the rounding of weights and outputs, of which the plain form has as much."""
    check(MASKS[name], arrays(4, 2, jnp.bfloat16), tolerance=2e-2)


def test_queries_and_keys_may_differ_in_number():
    """As beside a cache, of which only a part is filled."""
    query_positions = jnp.arange(20, 20 + 13)[None]
    key_positions = jnp.arange(53)[None]
    filled = jnp.broadcast_to(key_positions < 33, (BATCH, 53))
    mask = AttentionMask.causal(query_positions, key_positions, filled)
    check(mask, arrays(4, 2, jnp.float32, queries=13, keys=53))


@pytest.mark.parametrize("name", MASKS)
def test_blocks_left_out_are_those_that_nothing_sees(name):
    """None that is seen; and all that are not, where positions are in order."""
    mask = MASKS[name]
    blocks = MaskBlocks.split(mask, LENGTH, LENGTH, *BLOCKS.values())
    dense = np.broadcast_to(mask.dense(), (BATCH, LENGTH, LENGTH))
    dense = np.pad(dense, ((0, 0), (0, 3), (0, 11))).reshape(BATCH, 5, 8, 3, 16)
    seen = dense.any(axis=(0, 2, 4))
    visible = np.asarray(blocks.visible())
    assert not (seen & ~visible).any()
    if name not in ("segments", "segments and window", "tries"):
        np.testing.assert_array_equal(visible, seen)
    order, count = blocks.visits()
    for row, blocks_seen in enumerate(visible):
        np.testing.assert_array_equal(order[row, : count[row]], np.flatnonzero(blocks_seen))


def test_texts_in_one_row_cost_no_blocks_of_other_texts():
    ids = jnp.repeat(jnp.arange(1, 9), 64)[None]
    places = jnp.tile(jnp.arange(64), 8)[None]
    mask = AttentionMask.causal(places, places, ids > 0, is_ordered=True).with_segments(ids)
    visible = MaskBlocks.split(mask, 512, 512, 32, 32).visible()
    texts = np.kron(np.eye(8, dtype=bool), np.tril(np.ones((2, 2), bool)))
    np.testing.assert_array_equal(visible, texts)


def test_a_block_that_is_left_out_is_not_computed():
    """A value that is not a number, in a later block, reaches no gradient."""
    query, key, value, cotangent = arrays(4, 2, jnp.float32)
    value = value.at[:, 32:].set(jnp.nan)
    early = jnp.arange(LENGTH)[None, :, None, None] < 32
    chunked = functools.partial(attend_in_chunks, **BLOCKS)
    inputs = (query, key, value, jnp.where(early, cotangent, 0))
    output, gradients = output_and_gradients(chunked, MASKS["causal"], inputs)
    assert np.isfinite(output[:, :32]).all()
    assert np.isfinite(gradients[0][:, :32]).all()


def test_a_mesh_divides_batch_and_heads_without_gathering_them():
    mesh = jax.make_mesh((1, 2, 2), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
    divided = NamedSharding(mesh, P(("data", "fsdp"), None, "tensor"))
    inputs = arrays(4, 2, jnp.float32)
    mask = segments()

    def attended(query, key, value, mask):
        return attend_in_chunks(query, key, value, mask, scale=0.6, **BLOCKS)

    def gradients(inputs, mask):
        *inputs, cotangent = inputs
        output, backward = jax.vjp(functools.partial(attended, mask=mask), *inputs)
        return output, *backward(cotangent)

    expected = jax.jit(gradients)(inputs, mask)
    rows = jax.tree.map(lambda x: jax.device_put(x, NamedSharding(mesh, P("fsdp"))), mask)
    placed = jax.device_put(inputs, divided)
    compiled = jax.jit(gradients).lower(placed, rows).compile()
    for one, other in zip(compiled(placed, rows), expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    gathered = re.findall(r"= (f32\S*) (?:all-gather|all-to-all)\(", compiled.as_text())
    assert not gathered


@pytest.mark.parametrize("longer", [4, 16])
def test_temporaries_are_linear_in_the_length(longer):
    def temporaries(length):
        key_mask = jax.ShapeDtypeStruct((1, length), bool)
        query = jax.ShapeDtypeStruct((1, length, 8, 16), jnp.float32)
        key = jax.ShapeDtypeStruct((1, length, 2, 16), jnp.float32)

        def loss(query, key, value, key_mask):
            return attend_in_chunks(query, key, value, causal(key_mask), scale=0.25).sum()

        gradient = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))
        compiled = gradient.lower(query, key, key, key_mask).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    short = temporaries(2048)
    assert temporaries(2048 * longer) <= 1.01 * longer * short
