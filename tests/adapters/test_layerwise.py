"""Factorizations of layers, divided over the devices of a mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from balora_jax import adapters
from balora_jax.config import MeshConfig
from balora_jax.training.sharding import make_mesh

RANK = 4


def params_of(layers):
    draw = np.random.default_rng(0).standard_normal
    return {
        "layers": {"q": {"kernel": jnp.asarray(draw((layers, 24, 16)), jnp.float32)}},
        "o": {"kernel": jnp.asarray(draw((24, 16)), jnp.float32)},
    }


@pytest.mark.parametrize("niter", [None, 4])
@pytest.mark.parametrize("layers", [1, 3, 8, 11])
def test_every_mesh_gives_the_same_factors(layers, niter):
    params = params_of(layers)
    paths = [("layers", "q"), ("o",)]
    key = jax.random.key(0)
    expected = adapters.init_pissa(params, paths, RANK, niter=niter, key=key)
    for sizes in ((1, 8, 1), (2, 2, 2), (1, 4, 2)):
        mesh = make_mesh(MeshConfig(*sizes))
        divided = {
            "layers": {"q": NamedSharding(mesh, P(None, "fsdp", "tensor"))},
            "o": NamedSharding(mesh, P("fsdp", "tensor")),
        }
        placed = jax.tree.map(
            lambda leaf, sharding: jax.device_put(leaf, sharding),
            params,
            {
                "layers": {"q": {"kernel": divided["layers"]["q"]}},
                "o": {"kernel": divided["o"]},
            },
        )
        factors = adapters.init_pissa(placed, paths, RANK, niter=niter, key=key, mesh=mesh)
        jax.tree.map(np.testing.assert_array_equal, factors, expected)


@pytest.mark.parametrize("sizes", [(1, 8, 1), (2, 4, 1), (1, 4, 2)])
@pytest.mark.parametrize("layers", [16, 12])
def test_each_device_decomposes_its_own_layers(sizes, layers):
    """Compiled for 8 devices, the program of a device holds an eighth of the layers."""
    mesh = make_mesh(MeshConfig(*sizes))
    shape = jax.ShapeDtypeStruct(
        (layers, 24, 16), jnp.float32, sharding=NamedSharding(mesh, P(None, "fsdp", "tensor"))
    )

    def factors(kernel):
        params = {"q": {"kernel": kernel}}
        return adapters.init_pissa(params, [("q",)], RANK, key=jax.random.key(0), mesh=mesh)

    program = jax.jit(factors).lower(shape).compile()
    assert "f32[2,24,16]" in program.as_text()
    assert "f32[16,24,16]" not in program.as_text()
    assert "f32[12,24,16]" not in program.as_text()
