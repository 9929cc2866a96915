"""The division of parameters into trainable and frozen."""

import jax.numpy as jnp

from balora_jax.objective.params import Params
from balora_jax.training.state import trainable_mask


def test_full_trains_the_base_alone():
    params = Params(
        adapters={"out": {"a": jnp.ones((5, 2)), "b": jnp.zeros((2, 3))}},
        base={"out": {"kernel": jnp.ones((5, 3))}},
    )
    mask = trainable_mask(params, method="full")
    assert mask.base["out"]["kernel"] and not mask.adapters["out"]["a"]
