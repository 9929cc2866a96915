"""Dropout: its share and scale, independence of its masks, and its gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import NamedSharding, PartitionSpec

from balora_jax.models.layers.attention import attend
from balora_jax.models.layers.dropout import dropout, dropout_function, hash_dropout
from balora_jax.models.layers.mask import AttentionMask
from balora_jax.models.layers.options import LayerOptions

SHAPE = (256, 384)


def kept(key: int, rate: float, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.asarray(hash_dropout(jnp.ones(shape), jax.random.key(key), rate)) > 0


def correlation(left: np.ndarray, right: np.ndarray) -> float:
    """Correlation in standard deviations of that of independent elements."""
    return float(np.corrcoef(left.ravel(), right.ravel())[0, 1] * left.size**0.5)


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("key", [0, 1, 12345])
def test_drops_its_share_in_every_row_and_column(rate, key):
    mask = kept(key, rate)
    deviation = (rate * (1 - rate)) ** 0.5
    for axis in (None, 0, 1):
        elements = mask.size if axis is None else mask.shape[axis]
        shares = mask.mean(axis)
        assert np.abs(shares - (1 - rate)).max() < 5 * deviation / elements**0.5
    assert np.isclose(np.var(mask.mean(1)) * mask.shape[1], deviation**2, rtol=0.5)


def test_scales_kept_elements_and_keeps_the_element_type():
    x = jnp.full((64, 64), 3.0, jnp.bfloat16)
    y = hash_dropout(x, jax.random.key(0), 0.25)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.unique(np.asarray(y, np.float32)), [0.0, 4.0])


@pytest.mark.parametrize("step", [(0, 1), (1, 0), (1, 1), (0, 16), (128, 0), (0, 128)])
def test_neighbors_are_independent(step):
    mask = kept(7, 0.3)
    rows, columns = step
    shifted = mask[rows:, columns:]
    assert abs(correlation(mask[: len(mask) - rows, : mask.shape[1] - columns], shifted)) < 4


def test_masks_of_different_keys_are_independent():
    keys = jax.random.split(jax.random.key(3), 24)
    masks = [np.asarray(hash_dropout(jnp.ones(SHAPE), key, 0.1)) > 0 for key in keys]
    masks += [kept(key, 0.1) for key in range(24)]
    pairs = [correlation(a, b) for i, a in enumerate(masks) for b in masks[:i]]
    assert np.abs(pairs).max() < 5
    assert np.isclose(np.std(pairs), 1, atol=0.1)


def test_one_key_gives_one_mask():
    np.testing.assert_array_equal(kept(1, 0.4), kept(1, 0.4))
    assert (kept(1, 0.4) != kept(2, 0.4)).any()
    # A higher rate drops all elements that a lower rate drops.
    assert not (kept(1, 0.4) & ~kept(1, 0.2)).any()


def test_gradient_is_the_mask():
    key = jax.random.key(5)
    x = jax.random.normal(jax.random.key(6), SHAPE)
    gradient = jax.grad(lambda x: hash_dropout(x, key, 0.3).sum())(x)
    np.testing.assert_allclose(gradient, hash_dropout(jnp.ones(SHAPE), key, 0.3), rtol=1e-6)


class Dropping(nn.Module):
    """Attention with dropout of its weights, then dropout of its output."""

    @nn.compact
    def __call__(self, x):
        options = LayerOptions(training=True)
        mask = AttentionMask.padding(jnp.ones(x.shape[:2], bool))
        weights_dropout = dropout_function(0.1, options)
        attended = attend(x, x, x, mask, scale=1.0, dropout=weights_dropout)
        return dropout(attended, 0.1, options)


def test_backward_pass_keeps_no_mask_and_no_scores():
    x = jax.random.normal(jax.random.key(0), (2, 64, 3, 4))
    _, backward = jax.vjp(lambda x: Dropping().apply({}, x, rngs={"dropout": jax.random.key(1)}), x)
    kept_sizes = [leaf.size for leaf in jax.tree.leaves(backward)]
    # Query, key and value; scores would be 2 * 3 * 64 * 64.
    assert max(kept_sizes) == x.size and sum(kept_sizes) < 4 * x.size


def test_mask_does_not_depend_on_the_mesh():
    mesh = jax.make_mesh((4, 2), ("data", "fsdp"), devices=jax.devices()[:8])
    x, key = jnp.ones(SHAPE), jax.random.key(9)
    whole = jax.jit(lambda x: hash_dropout(x, key, 0.2))
    spread = whole(jax.device_put(x, NamedSharding(mesh, PartitionSpec("data", "fsdp"))))
    np.testing.assert_array_equal(spread, whole(x))


def test_scalars_and_one_element():
    assert hash_dropout(jnp.float32(2.0), jax.random.key(0), 0.5).shape == ()
    draws = jax.vmap(lambda key: hash_dropout(jnp.float32(1.0), key, 0.5))(
        jax.random.split(jax.random.key(1), 2000)
    )
    assert abs(float(draws.mean()) - 1) < 5 / 2000**0.5
