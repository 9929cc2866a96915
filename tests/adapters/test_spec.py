"""The scale of an adapter."""

from balora_jax.adapters import AdapterSpec


def test_scale():
    assert AdapterSpec(rank=16).scale == 1
    assert AdapterSpec(rank=16, alpha=32).scale == 2
    assert AdapterSpec(rank=16, alpha=32, rank_stabilized=True).scale == 8
