"""The benchmarks share their weights, and read compiled programs by kind and place."""

import jax
import jax.numpy as jnp
import pytest

from balora_jax.config import MeshConfig
from balora_jax.runs.setup import batch_shapes, build_setup
from balora_jax.training.sharding import make_mesh
from benchmarks import profile, sizes


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


def test_a_program_is_read_by_kind_and_place():
    def loss(x, w):
        y, _ = jax.lax.scan(lambda y, w: (jnp.tanh(y @ w), None), x, w)
        return jnp.sum(y.T**2)

    program = jax.jit(jax.grad(loss)).lower(jnp.ones((64, 64)), jnp.ones((3, 64, 64))).compile()
    instructions = profile.instructions_of(program.as_text())
    kinds = {instruction.kind for instruction in instructions.values()}
    assert {"products", "arithmetic"} <= kinds
    products = {i.place.split()[0] for i in instructions.values() if i.kind == "products"}
    assert products == {"forward", "backward"}
    assert not any(name.startswith("while") for name in instructions)
