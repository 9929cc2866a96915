"""The SVD of a tall matrix on eight devices, against numpy's in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from balora_jax.config import MeshConfig
from balora_jax.linalg.leading import leading_triplets
from balora_jax.linalg.tall import parts_of, tall_svd
from balora_jax.training.collectives import bytes_sent
from balora_jax.training.sharding import make_mesh


def _sharding(data, fsdp, tensor=1):
    mesh = make_mesh(MeshConfig(data, fsdp, tensor))
    return NamedSharding(mesh, P(("data", "fsdp"), None))


def _matrix(rows, columns, values, seed=0):
    rng = np.random.default_rng(seed)
    left, right = (np.linalg.qr(rng.normal(size=(side, columns)))[0] for side in (rows, columns))
    return (left * values) @ right.T


# The last one has parts with fewer rows than columns.
@pytest.mark.parametrize("rows", [4096, 128, 40])
@pytest.mark.parametrize("mesh", [(2, 4), (1, 8), (2, 2, 2)])
@pytest.mark.parametrize("smallest", [1e-1, 1e-5])
def test_the_parts_give_the_whole(rows, mesh, smallest):
    values = np.geomspace(1, smallest, 20)
    exact = _matrix(rows, 20, values)
    sharding = _sharding(*mesh)
    matrix = jax.device_put(jnp.asarray(exact, jnp.float32), sharding)
    found = jax.jit(functools.partial(tall_svd, sharding=sharding))(matrix)
    left, found_values, right = (np.asarray(part, np.float64) for part in found)
    np.testing.assert_allclose(found_values, values, atol=1e-6)
    np.testing.assert_allclose(left.T @ left, np.eye(20), atol=2e-6)
    np.testing.assert_allclose(right @ right.T, np.eye(20), atol=2e-6)
    np.testing.assert_allclose((left * found_values) @ right, exact, atol=1e-6)


def test_rows_that_do_not_count_and_directions_that_are_not_there():
    """As where all texts of two devices are padding, and the others say little."""
    exact = _matrix(256, 20, np.concatenate([np.geomspace(1, 0.1, 12), np.zeros(8)]))
    exact[64:128] = 0
    sharding = _sharding(2, 4)
    matrix = jax.device_put(jnp.asarray(exact, jnp.float32), sharding)
    found = jax.jit(functools.partial(tall_svd, sharding=sharding))(matrix)
    left, values, right = (np.asarray(part, np.float64) for part in found)
    np.testing.assert_allclose(values, np.linalg.svd(exact, compute_uv=False), atol=1e-6)
    np.testing.assert_allclose(left.T @ left, np.eye(20), atol=2e-6)
    np.testing.assert_allclose((left * values) @ right, exact, atol=1e-6)


def test_devices_exchange_triangles_alone():
    sharding = _sharding(1, 8)
    shape = jax.ShapeDtypeStruct((4096, 32), jnp.float32, sharding=sharding)
    divided = jax.jit(functools.partial(tall_svd, sharding=sharding), out_shardings=None)
    sent = bytes_sent(divided.lower(shape).compile().as_text())
    triangles = parts_of(sharding) * 32 * 32 * 4
    assert 0 < sum(sent.values()) <= 2 * triangles


@pytest.mark.parametrize("decay", [0.5, 5.0])
def test_the_leading_triplets_are_those_of_one_device(decay):
    exact = _matrix(512, 64, np.exp(-decay * np.arange(64) / 64))
    sharding = _sharding(2, 4)
    matrix = jax.device_put(jnp.asarray(exact, jnp.float32), sharding)
    divided = jax.jit(lambda matrix: leading_triplets(matrix, 10, sharding=sharding))(matrix)
    values = np.linalg.svd(exact, compute_uv=False)[:10]
    np.testing.assert_allclose(divided.values, values, rtol=1e-5)
    product = np.asarray(divided.left * divided.values) @ np.asarray(divided.right).T
    left, kept, right = np.linalg.svd(exact)
    expected = (left[:, :10] * kept[:10]) @ right[:10]
    np.testing.assert_allclose(product, expected, atol=5e-4)


def test_devices_divide_the_products_and_send_no_more():
    sharding = _sharding(1, 8)
    shape = jax.ShapeDtypeStruct((2048, 512), jnp.float32, sharding=sharding)

    def program(own):
        function = jax.jit(lambda matrix: leading_triplets(matrix, 10, sharding=own))
        compiled = function.lower(shape).compile()
        return sum(bytes_sent(compiled.as_text()).values()), compiled.cost_analysis()["flops"]

    sent, operations = program(sharding)
    sent_by_default, operations_by_default = program(None)
    assert sent < sent_by_default
    # Three products of the Gram matrix with a block of 32, in the programs of all rounds.
    saved = 3 * 7 / 8 * 2 * 512 * 512 * 32
    assert operations_by_default - operations > 0.9 * saved
