"""The benchmarks' setups share their weights, whatever their terms."""

import jax
import pytest

from balora_jax.config import MeshConfig
from balora_jax.runs.setup import batch_shapes, build_setup
from balora_jax.training.sharding import make_mesh
from benchmarks import sizes


@pytest.mark.parametrize("name", ["small", "minilm"])
def test_every_form_takes_the_same_weights(name):
    mesh = make_mesh(MeshConfig(data=1), jax.devices()[:1])
    model = sizes.make_model(name, dtype="float32")

    def setup_of(regularized):
        config = sizes.make_config(name, rank=2, batch=2, dtype="float32", regularized=regularized)
        return config, build_setup(config, model, mesh, steps=sizes.STEPS)

    config, setup = setup_of(True)
    state, frozen, batch = sizes.materialize(setup, batch_shapes(config, model, 16))
    assert all(leaf.shape[:2] == (1, 2) for leaf in jax.tree.leaves(batch))
    for regularized in (True, False):
        _, setup = setup_of(regularized)
        shared = sizes.share(setup, state, frozen)
        expected = (setup.state, setup.frozen)
        assert jax.tree.structure(shared) == jax.tree.structure(expected)
        assert shared[1].base is frozen.base
