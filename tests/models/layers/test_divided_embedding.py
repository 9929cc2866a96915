"""Embeddings whose texts and columns are divided over the same devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from balora_jax.models.layers.dense import embed
from balora_jax.models.layers.options import LayerOptions

SHAPES = [(1, 8, 1), (2, 2, 2), (1, 2, 4), (8, 1, 1), (1, 4, 2)]


def divided(mesh):
    """The shardings of a table, of texts and of their embeddings, as a run has them."""
    specs = [P("tensor", "fsdp"), P(("data", "fsdp")), P(("data", "fsdp"), None, None)]
    return [NamedSharding(mesh, spec) for spec in specs]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("batch", [8, 3])
def test_the_rows_and_their_gradient_are_those_of_one_device(shape, batch, capfd):
    """A batch that the devices do not divide, as in generation, is looked up as it is."""
    mesh = jax.make_mesh(shape, ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
    random = np.random.default_rng(0)
    table = jnp.asarray(random.normal(size=(24, 16)), jnp.float32)
    ids = jnp.asarray(random.integers(0, 24, (batch, 5)), jnp.int32)
    module = embed(24, 16, LayerOptions(mesh=mesh))
    of_table, of_ids, of_rows = divided(mesh)
    fits = batch == 8
    if fits:
        ids = jax.device_put(ids, of_ids)

    def rows(table):
        return module.apply({"params": {"embedding": table}}, ids)

    def loss(table):
        return jnp.sum(jnp.sin(rows(table)))

    found = jax.jit(rows, out_shardings=of_rows if fits else None)(jax.device_put(table, of_table))
    np.testing.assert_array_equal(found, np.asarray(table)[np.asarray(ids)])
    gradient = jax.jit(jax.grad(loss))(jax.device_put(table, of_table))
    expected = jax.grad(lambda table: jnp.sum(jnp.sin(table[np.asarray(ids)])))(table)
    np.testing.assert_allclose(gradient, expected, atol=1e-6)
    if fits:
        # XLA says so where every device gathers the rows of all texts.
        assert "rematerialization" not in capfd.readouterr().err
