"""Geometry of adapters against full decompositions in float64, with planted intruders."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from balora_jax.adapters import AdapterSpec, scale_change, student_lora
from balora_jax.evaluation.inheritance.geometry import (
    change_triplets,
    largest_weight,
    measure_geometry,
)
from balora_jax.models import load_pretrained

# [in, out]
SHAPES = [(120, 120), (150, 100), (100, 150)]
# Programs are shared by measurements with the same shapes and these numbers.
KNOWN = 16
RANK = 3


def _orthonormal(rng, rows, columns):
    return np.linalg.qr(rng.normal(size=(rows, columns)))[0]


def _kernel(rng, rows, columns, decay=0.96):
    """A kernel of known directions: left [in, n], values [n], right [out, n]."""
    size = min(rows, columns)
    left = _orthonormal(rng, rows, size)
    right = _orthonormal(rng, columns, size)
    values = 5 * decay ** np.arange(size)
    return left, values, right


def _tree(kernel, a, b):
    params = {"q": {"kernel": jnp.asarray(kernel, jnp.float32), "bias": jnp.zeros(1)}}
    lora = {"q": {"a": jnp.asarray(a, jnp.float32), "b": jnp.asarray(b, jnp.float32)}}
    return params, lora


def _largest_cosines(kernel, change, top):
    """The definition: left singular vectors of whole matrices as PyTorch stores them."""
    base, _, _ = np.linalg.svd(kernel.T.astype(np.float64), full_matrices=False)
    tuned, _, _ = np.linalg.svd((kernel + change).T.astype(np.float64), full_matrices=False)
    return np.abs(base.T @ tuned[:, :top]).max(axis=0)


def _check_bounds(found, cosines, epsilon=0.5):
    low = np.array(found.cosines_low)
    high = np.array(found.cosines_high)
    assert np.all(low <= cosines + 1e-3) and np.all(cosines <= high + 1e-3)
    certain = found.intruders
    assert certain <= np.sum(cosines < epsilon) <= certain + found.undecided


@pytest.mark.parametrize("shape", SHAPES)
def test_planted_intruders_are_found(shape):
    """Directions spread over the whole base, stronger than all but a few of its own.

    A quarter of the base's values are near 0, which takes more steps to tell apart.
    """
    rng = np.random.default_rng(0)
    left, values, right = _kernel(rng, *shape)
    kernel = (left * values) @ right.T
    spread = right @ _orthonormal(rng, len(values), RANK)
    a = _orthonormal(rng, shape[0], RANK) * 20
    [found] = measure_geometry(*_tree(kernel, a, spread.T), known=KNOWN, steps=64).kernels
    cosines = _largest_cosines(kernel, a @ spread.T, 10)
    _check_bounds(found, cosines)
    assert np.sum(cosines < 0.5) == found.intruders + found.undecided >= 3
    assert found.undecided == 0
    assert np.all(np.array(found.cosines_high[:3]) < 0.5)


@pytest.mark.parametrize("shape", SHAPES)
def test_strengthened_directions_are_no_intruders(shape):
    rng = np.random.default_rng(1)
    left, values, right = _kernel(rng, *shape)
    kernel = (left * values) @ right.T
    a = left[:, [0, 5, 9]] * 20
    b = right[:, [0, 5, 9]].T
    [found] = measure_geometry(*_tree(kernel, a, b), known=KNOWN).kernels
    assert (found.intruders, found.undecided) == (0, 0)
    np.testing.assert_allclose(found.cosines_low, 1, atol=1e-3)


def test_a_direction_beyond_the_known_ones_is_undecided():
    rng = np.random.default_rng(2)
    left, values, right = _kernel(rng, 120, 120)
    kernel = (left * values) @ right.T
    params, lora = _tree(kernel, left[:, 40:41] * 20, right[:, 40:41].T)
    [found] = measure_geometry(params, lora, known=KNOWN).kernels
    assert (found.intruders, found.undecided) == (0, 1)
    assert found.cosines_low[0] < 1e-2 and found.cosines_high[0] == pytest.approx(1, abs=1e-3)
    [found] = measure_geometry(params, lora, known=120).kernels
    assert (found.intruders, found.undecided) == (0, 0)


def test_outputs_out_of_reach_of_the_base_are_intruders():
    """A direction that no input gives in the base agrees with none of its directions."""
    rng = np.random.default_rng(3)
    left, values, right = _kernel(rng, 100, 150)
    kernel = (left * values) @ right.T
    new = rng.normal(size=150)
    new -= right @ (right.T @ new)
    new /= np.linalg.norm(new)
    a = _orthonormal(rng, 100, 1) * 40
    [found] = measure_geometry(*_tree(kernel, a, new[None]), known=KNOWN).kernels
    _check_bounds(found, _largest_cosines(kernel, a * new, 10))
    assert found.cosines_high[0] < 0.3 and found.intruders >= 1


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(4))
def test_bounds_hold_for_any_change(shape, seed):
    rng = np.random.default_rng(seed)
    kernels = rng.normal(size=(3, *shape)) * rng.uniform(0.2, 2, (3, 1, 1))
    left, values, right = _kernel(rng, *shape, decay=rng.uniform(0.8, 0.99))
    kernels[0] = (left * values) @ right.T
    a = rng.normal(size=(3, shape[0], 5))
    b = rng.normal(size=(3, 5, shape[1])) * np.array([0.01, 0.1, 1])[:, None, None]
    params, lora = _tree(kernels, a, b)
    geometry = measure_geometry(params, lora, known=KNOWN, steps=12)
    assert [found.layer for found in geometry.kernels] == [0, 1, 2]
    for found, kernel, left_factor, right_factor in zip(
        geometry.kernels, kernels, a, b, strict=True
    ):
        _check_bounds(found, _largest_cosines(kernel, left_factor @ right_factor, 10))


@pytest.mark.parametrize("shape", SHAPES)
def test_cosines_are_exact_where_all_directions_are_known(shape):
    rng = np.random.default_rng(5)
    kernel = rng.normal(size=shape)
    a = rng.normal(size=(shape[0], RANK))
    b = rng.normal(size=(RANK, shape[1]))
    [found] = measure_geometry(*_tree(kernel, a, b), known=min(shape)).kernels
    expected = _largest_cosines(kernel, a @ b, 10)
    np.testing.assert_allclose(found.cosines_low, expected, atol=2e-3)
    np.testing.assert_allclose(found.cosines_high, expected, atol=2e-3)


@pytest.mark.parametrize("steps", [1, 2, 5, 9])
def test_neighboring_nodes_bound_every_weight(steps):
    rng = np.random.default_rng(steps)
    for _ in range(20):
        weights = rng.dirichlet(np.full(30, rng.choice([0.05, 1.0])))
        values = rng.uniform(size=30)
        basis = [np.sqrt(weights)]
        diagonal = []
        beside = []
        for _ in range(steps):
            image = values * basis[-1]
            diagonal.append(basis[-1] @ image)
            for _ in range(2):
                for vector in basis:
                    image = image - vector * (vector @ image)
            beside.append(np.linalg.norm(image))
            basis.append(image / beside[-1])
        bound = largest_weight(np.array(diagonal), np.array(beside))
        assert weights.max() - 1e-9 <= bound <= 1 + 1e-9


def test_an_ended_quadrature_is_exact():
    """Rows after the end, which share the node 0, take no weight from it."""
    beside = np.array([1.0, 0.0, 0.0, 0.0])
    bound = largest_weight(np.array([1.0, 1.0, 0.0, 0.0]), beside)
    assert bound == pytest.approx(1)
    assert largest_weight(np.zeros(3), np.zeros(3)) == 1


@pytest.mark.parametrize("shape", SHAPES)
def test_norms_angles_and_shares(shape):
    rng = np.random.default_rng(6)
    left, values, right = _kernel(rng, *shape)
    kernel = (left * values) @ right.T
    a = rng.normal(size=(shape[0], 3)) + 4 * left[:, :3]
    b = rng.normal(size=(3, shape[1])) + 4 * right[:, :3].T
    [found] = measure_geometry(*_tree(kernel, a, b), known=KNOWN).kernels
    change = a @ b
    assert found.layer is None and found.module == "q" and found.directions == 3
    assert found.kernel_norm == pytest.approx(np.linalg.norm(kernel), rel=1e-5)
    assert found.change_norm == pytest.approx(np.linalg.norm(change), rel=1e-5)
    assert found.relative == pytest.approx(np.linalg.norm(change) / np.linalg.norm(kernel))
    u, _, vt = np.linalg.svd(change)
    for angles, share, ours, theirs, projected in (
        (found.input_angles, found.input_share, u[:, :3], left[:, :3], left[:, :3].T @ change),
        (found.output_angles, found.output_share, vt[:3].T, right[:, :3], change @ right[:, :3]),
    ):
        cosines = np.linalg.svd(ours.T @ theirs, compute_uv=False)
        np.testing.assert_allclose(angles, np.degrees(np.arccos(cosines)), atol=0.05)
        expected = np.linalg.norm(projected) ** 2 / np.linalg.norm(change) ** 2
        assert share == pytest.approx(expected, rel=1e-3)


def test_angles_of_planted_spaces():
    """Within the base's leading space the angles are 0, outside of it 90 degrees."""
    rng = np.random.default_rng(7)
    left, values, right = _kernel(rng, 40, 40)
    kernel = (left * values) @ right.T
    [found] = measure_geometry(*_tree(kernel, left[:, :2] * 0.1, right[:, 20:22].T)).kernels
    np.testing.assert_allclose(found.input_angles, 0, atol=0.05)
    np.testing.assert_allclose(found.output_angles, 90, atol=0.05)
    assert found.input_share == pytest.approx(1, abs=1e-4)
    assert found.output_share == pytest.approx(0, abs=1e-4)


def test_the_delta_form_is_measured_as_its_difference():
    """A and B have twice the rank; only what differs from the start is a change."""
    rng = np.random.default_rng(8)
    kernel = rng.normal(size=(30, 20))
    _, initial = _tree(kernel, rng.normal(size=(30, 3)), rng.normal(size=(3, 20)))
    spec = AdapterSpec(rank=3, alpha=6, form="delta")
    params, trained = _tree(
        kernel, initial["q"]["a"], initial["q"]["b"] + 0.1 * rng.normal(size=(3, 20))
    )
    [found] = measure_geometry(params, student_lora(trained, initial, spec)).kernels
    pairs = [
        (np.float64(tree["q"]["a"]), np.float64(tree["q"]["b"])) for tree in (trained, initial)
    ]
    change = spec.scale * (pairs[0][0] @ pairs[0][1] - pairs[1][0] @ pairs[1][1])
    assert found.change_norm == pytest.approx(np.linalg.norm(change), rel=1e-5)
    assert found.directions == 3

    [untouched] = measure_geometry(params, student_lora(initial, initial, spec)).kernels
    assert (untouched.change_norm, untouched.directions, untouched.relative) == (0, 0, 0)
    assert untouched.input_angles == () and untouched.output_share == 0
    assert (untouched.intruders, untouched.undecided) == (0, 0)
    np.testing.assert_allclose(untouched.cosines_low, 1, atol=1e-3)


def test_a_scaled_change_has_scaled_norms_and_the_same_angles():
    rng = np.random.default_rng(9)
    params, lora = _tree(*(rng.normal(size=size) for size in ((30, 20), (30, 3), (3, 20))))
    [whole] = measure_geometry(params, lora).kernels
    [half] = measure_geometry(params, scale_change(lora, 0.5)).kernels
    assert half.relative == pytest.approx(whole.relative / 2)
    np.testing.assert_allclose(half.input_angles, whole.input_angles, atol=1e-6)


def test_factors_are_decomposed_like_their_product():
    rng = np.random.default_rng(10)
    a = rng.normal(size=(9, 3)).astype(np.float32)
    b = rng.normal(size=(3, 7)).astype(np.float32)
    left, values, right = change_triplets(a, b)
    product = np.float64(a) @ np.float64(b)
    np.testing.assert_allclose((left * values) @ right.T, product, atol=1e-12)
    np.testing.assert_allclose(values, np.linalg.svd(product)[1][:3])
    # More columns than the kernel has rows.
    wide, _, _ = change_triplets(rng.normal(size=(4, 6)), rng.normal(size=(6, 8)))
    assert wide.shape == (4, 4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_layers_of_a_model(tiny_llama, dtype):
    _, params = load_pretrained(tiny_llama, dtype=dtype)
    rng = np.random.default_rng(11)
    modules = [("self_attn", "q_proj"), ("mlp", "up_proj")]
    lora = {"model": {"layers": {}}}
    for room, name in modules:
        layers, rows, columns = params["model"]["layers"][room][name]["kernel"].shape
        a = jnp.asarray(rng.normal(size=(layers, rows, 2)), jnp.float32)
        b = jnp.asarray(rng.normal(size=(layers, 2, columns)), jnp.float32)
        lora["model"]["layers"][room] = {name: {"a": a, "b": b}}
    geometry = measure_geometry(params, lora, top=4)
    assert [(found.module, found.layer) for found in geometry.kernels] == [
        ("model.layers.mlp.up_proj", 0),
        ("model.layers.mlp.up_proj", 1),
        ("model.layers.self_attn.q_proj", 0),
        ("model.layers.self_attn.q_proj", 1),
    ]
    second = geometry.by_layer()[1]
    parts = geometry.kernels[1::2]
    change = np.sum([part.change_norm**2 for part in parts])
    base = np.sum([part.kernel_norm**2 for part in parts])
    assert second.layer == 1 and second.tested == 8
    assert second.relative == pytest.approx(np.sqrt(change / base))
    assert second.intruders == sum(part.intruders for part in parts)
    for found in parts:
        room, name = found.module.split(".")[2:]
        kernel = np.float64(params["model"]["layers"][room][name]["kernel"][1])
        a, b = (np.float64(lora["model"]["layers"][room][name][part][1]) for part in "ab")
        np.testing.assert_allclose(found.cosines_low, _largest_cosines(kernel, a @ b, 4), atol=2e-3)
    written = json.loads(json.dumps(geometry.to_json()))
    assert len(written["kernels"]) == 4 and len(written["layers"]) == 2
    assert written["kernels"][0]["relative"] == geometry.kernels[0].relative
    assert jax.tree.structure(written)
