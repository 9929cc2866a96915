"""Compressed adapters against whole decompositions in float64."""

import numpy as np
import pytest

from balora_jax.adapters.compress import compress


def _lora(seed, *, layers=3, rank=6):
    draw = np.random.default_rng(seed)
    decay = 0.5 ** np.arange(rank)
    return {
        "stack": {
            "q": {
                "a": (draw.normal(size=(layers, 12, rank)) * decay).astype(np.float32),
                "b": draw.normal(size=(layers, rank, 9)).astype(np.float32),
            }
        },
        "head": {
            "a": draw.normal(size=(7, rank)).astype(np.float32),
            "b": draw.normal(size=(rank, 20)).astype(np.float32),
        },
    }


def _changes(lora):
    stacked = lora["stack"]["q"]
    changes = [a @ b for a, b in zip(*(np.float64(stacked[name]) for name in "ab"), strict=True)]
    return [*changes, np.float64(lora["head"]["a"]) @ np.float64(lora["head"]["b"])]


@pytest.mark.parametrize("rank", [1, 2, 5, 6])
def test_the_nearest_change_of_a_rank(rank):
    lora = _lora(0)
    found = compress(lora, rank)
    shares = []
    lost = 0.0
    whole = 0.0
    for before, after in zip(_changes(lora), _changes(found.lora), strict=True):
        left, values, right = np.linalg.svd(before, full_matrices=False)
        expected = (left[:, :rank] * values[:rank]) @ right[:rank]
        np.testing.assert_allclose(after, expected, atol=1e-5 * values[0])
        distance = np.linalg.norm(before - expected)
        shares.append(distance / np.linalg.norm(before))
        lost += distance**2
        whole += np.linalg.norm(before) ** 2
    assert found.error == pytest.approx(np.sqrt(lost / whole), abs=1e-6)
    assert found.largest_error == pytest.approx(max(shares), abs=1e-6)
    assert found.lora["stack"]["q"]["a"].shape == (3, 12, rank)
    assert found.lora["head"]["b"].shape == (rank, 20)


def test_the_doubled_rank_of_a_small_change_is_not_needed():
    """[A - A0 | A0] [B ; B - B0] has twice the rank, of which small steps use a part."""
    draw = np.random.default_rng(1)
    a0 = draw.normal(size=(16, 4))
    b0 = draw.normal(size=(4, 10))
    a = np.concatenate([1e-3 * draw.normal(size=(16, 4)), a0], axis=-1)
    b = np.concatenate([b0, np.zeros((4, 10))], axis=-2)
    assert compress({"q": {"a": a, "b": b}}, 4).error < 1e-6


def test_no_change_has_no_error():
    found = compress({"q": {"a": np.ones((5, 3)), "b": np.zeros((3, 4))}}, 2)
    assert (found.error, found.largest_error) == (0.0, 0.0)
    assert not found.lora["q"]["b"].any()
