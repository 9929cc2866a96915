"""The side path of an adapter with a start: that of the wide factors, gradients of its rank."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from balora_jax.adapters import AdapterSpec, student_lora, trained_lora
from balora_jax.models.layers.dense import Dense, embed
from balora_jax.models.layers.options import LayerOptions
from balora_jax.training.collectives import bytes_sent

BATCH, LENGTH, IN, OUT, RANK = 8, 6, 16, 24, 4
SPEC = AdapterSpec(RANK, alpha=10)


def _pair():
    """Adapters now and at step 0 of a kernel [16, 24]."""
    keys = jax.random.split(jax.random.key(0), 4)
    start = {
        "a": jax.random.normal(keys[0], (IN, RANK)),
        "b": jax.random.normal(keys[1], (RANK, OUT)),
    }
    moves = {
        "a": jax.random.normal(keys[2], (IN, RANK)),
        "b": jax.random.normal(keys[3], (RANK, OUT)),
    }
    return jax.tree.map(lambda leaf, move: leaf + 0.1 * move, start, moves), start


def _inputs(dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(1), 2)
    x = jax.random.normal(keys[0], (BATCH, LENGTH, IN), dtype)
    return x, jax.random.normal(keys[1], (BATCH, LENGTH, OUT))


def _layer(make_lora, mesh=None, dtype=jnp.float32):
    """(x, now, start, weights) -> a sum of the layer's outputs."""
    dense = Dense(OUT, LayerOptions(dtype=dtype, mesh=mesh))
    params = {"kernel": jnp.zeros((IN, OUT))}

    def total(x, now, start, weights):
        lora = make_lora({"q": now}, {"q": start}, SPEC)["q"]
        y = dense.apply({"params": params, "lora": lora}, x)
        return jnp.sum(y.astype(jnp.float32) * weights)

    return total


def test_values_and_gradients_are_those_of_the_formula():
    """Against x^T G s B^T and s (x A)^T G in float64, where G is the gradient of the output."""
    now, start = _pair()
    x, weights = _inputs()
    total, (of_x, of_now, of_start) = jax.value_and_grad(_layer(trained_lora), (0, 1, 2))(
        x, now, start, weights
    )
    rows, g = (np.asarray(array, np.float64).reshape(BATCH * LENGTH, -1) for array in (x, weights))
    a, b, a0, b0 = (
        np.asarray(tree[name], np.float64) for tree in (now, start) for name in ("a", "b")
    )
    scale = SPEC.scale
    change = scale * (a @ b - a0 @ b0)
    np.testing.assert_allclose(total, np.sum(rows @ change * g), rtol=1e-4)
    np.testing.assert_allclose(of_x.reshape(-1, IN), g @ change.T, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(of_now["a"], scale * rows.T @ g @ b.T, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(of_now["b"], scale * (rows @ a).T @ g, rtol=1e-4, atol=1e-3)
    assert not any(leaf.any() for leaf in jax.tree.leaves(of_start))


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-5), (jnp.bfloat16, 2e-2)])
def test_it_is_the_side_path_of_the_wide_factors(dtype, tolerance):
    now, start = _pair()
    x, weights = _inputs(dtype)
    wide, ours = (
        jax.jit(jax.value_and_grad(_layer(lora, dtype=dtype), (0, 1)))(x, now, start, weights)
        for lora in (student_lora, trained_lora)
    )
    for left, right in zip(jax.tree.leaves(ours), jax.tree.leaves(wide), strict=True):
        assert left.dtype == right.dtype
        left, right = (np.asarray(array, np.float64) for array in (left, right))
        assert np.linalg.norm(left - right) <= tolerance * np.linalg.norm(right)


def test_it_is_exactly_zero_at_the_start():
    _, start = _pair()
    x, weights = _inputs()
    assert _layer(trained_lora)(x, start, start, weights) == 0


def test_an_embedding_reads_rows_of_the_difference():
    now, start = _pair()
    ids = jnp.asarray([[0, 3, 3], [15, 1, 2]])
    embedding = embed(IN, OUT, LayerOptions())
    params = {"embedding": jnp.ones((IN, OUT))}

    def rows(now, make_lora):
        lora = make_lora({"q": now}, {"q": start}, SPEC)["q"]
        return embedding.apply({"params": params, "lora": lora}, ids)

    def gradient(make_lora):
        return jax.grad(lambda now: jnp.sum(jnp.sin(rows(now, make_lora))))(now)

    np.testing.assert_allclose(rows(now, trained_lora), rows(now, student_lora), rtol=1e-5)
    ours, wide = gradient(trained_lora), gradient(student_lora)
    for name in ("a", "b"):
        np.testing.assert_allclose(ours[name], wide[name], rtol=1e-4, atol=1e-4)


def test_devices_add_up_gradients_of_the_rank():
    """As many bytes as of an adapter without a start, beside the factors that are gathered."""
    mesh = jax.make_mesh((1, 8, 1), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
    now, start = _pair()
    x, weights = _inputs()
    spec = {"a": P("fsdp"), "b": P(None, "fsdp")}
    divided = {name: NamedSharding(mesh, axes) for name, axes in spec.items()}
    texts = NamedSharding(mesh, P(("data", "fsdp")))
    shardings = (texts, divided, divided, texts)

    def sent(make_lora):
        gradient = jax.grad(_layer(make_lora, mesh), 1)
        step = jax.jit(gradient, in_shardings=shardings, out_shardings=divided)
        return bytes_sent(step.lower(x, now, start, weights).compile().as_text())

    trained = sent(trained_lora)
    plain = sent(lambda now, start, spec: student_lora(now, None, spec))
    gathered = trained.pop("all-gather"), plain.pop("all-gather")
    assert gathered[0] == 2 * gathered[1]
    assert trained == plain
