"""LoRA's start, and the student and the teacher of both adapter forms, against the formula."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from balora_jax import adapters
from balora_jax.adapters import AdapterSpec

RANK = 4


@pytest.fixture
def params():
    keys = jax.random.split(jax.random.key(0), 4)
    return {
        "layers": {
            "q_proj": {"kernel": jax.random.normal(keys[0], (3, 16, 12))},
            "norm": {"scale": jnp.ones((3, 16))},
        },
        "out": {"kernel": jax.random.normal(keys[1], (12, 20)), "bias": jnp.zeros(20)},
    }


@pytest.fixture
def paths(params):
    return adapters.match_targets("all-linear", params)


def _random_like(tree, seed):
    """A tree of the same shapes, with normally distributed leaves."""
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    return jax.tree.unflatten(
        structure, [jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    )


def _wide(tree):
    """The leaves in float64, by path."""
    return {
        path: np.asarray(leaf, np.float64)
        for path, leaf in traverse_util.flatten_dict(tree).items()
    }


@pytest.fixture
def pair(params, paths):
    """(now, start): a trained adapter, and the one it started from."""
    initial = adapters.init_pissa(params, paths, RANK, key=jax.random.key(1))
    return _random_like(initial, 2), initial


def test_lora_starts_at_zero_within_its_bound(params, paths):
    start = adapters.init_lora(params, paths, RANK, jax.random.key(0))
    flat = traverse_util.flatten_dict(start)
    assert {path[-1] for path in flat} == {"a", "b"}
    assert flat[("layers", "q_proj", "a")].shape == (3, 16, RANK)
    assert flat[("out", "b")].shape == (RANK, 20)
    assert not flat[("out", "b")].any()
    a = flat[("layers", "q_proj", "a")]
    assert 0.2 < jnp.abs(a).max() <= 1 / 4
    assert not np.allclose(a[0], a[1])


@pytest.mark.parametrize("form", ["delta", "residual"])
@pytest.mark.parametrize("alpha", [4.0, 10.0])
def test_forms_against_the_formula(params, pair, form, alpha):
    """Both forms are W + s (A B - A0 B0), in float64."""
    now, start = pair
    spec = AdapterSpec(rank=RANK, alpha=alpha, form=form)
    base = params if form == "delta" else adapters.residual(params, start, spec)
    merged = adapters.merge(base, adapters.student_lora(now, start, spec))
    w, n, s, m = map(_wide, (params, now, start, merged))
    for path in [("layers", "q_proj"), ("out",)]:
        change = n[(*path, "a")] @ n[(*path, "b")] - s[(*path, "a")] @ s[(*path, "b")]
        np.testing.assert_allclose(
            m[(*path, "kernel")], w[(*path, "kernel")] + alpha / RANK * change, rtol=1e-5, atol=1e-4
        )
    np.testing.assert_array_equal(m[("out", "bias")], w[("out", "bias")])


def test_delta_path_is_exactly_zero_at_the_start(params, pair):
    _, start = pair
    lora = adapters.student_lora(start, start, AdapterSpec(RANK))
    merged = adapters.merge(params, lora)
    chex.assert_trees_all_equal(merged, params)


def test_delta_path_keeps_small_updates_in_bfloat16(params, pair):
    """Updates of one part in a thousand survive rounding the factors to bfloat16."""
    _, start = pair
    now = jax.tree.map(lambda x: x * 1.001, start)
    spec = AdapterSpec(RANK)
    rounded = jax.tree.map(
        lambda x: x.astype(jnp.bfloat16).astype(jnp.float32),
        adapters.student_lora(now, start, spec),
    )
    zeros = jax.tree.map(jnp.zeros_like, params)
    exact = adapters.merge(zeros, adapters.student_lora(now, start, spec))["out"]["kernel"]
    kept = adapters.merge(zeros, rounded)["out"]["kernel"]
    assert jnp.linalg.norm(kept - exact) < 0.01 * jnp.linalg.norm(exact)


def test_residual_teacher_is_the_base(params, pair):
    _, start = pair
    spec = AdapterSpec(RANK, alpha=7, form="residual")
    teacher = adapters.merge(
        adapters.residual(params, start, spec), adapters.teacher_lora(start, spec)
    )
    chex.assert_trees_all_close(teacher, params, atol=1e-5)
    assert adapters.teacher_lora(start, AdapterSpec(RANK)) == {}


def test_gradients_are_those_of_the_formula(params, pair):
    now, start = pair
    spec = AdapterSpec(RANK, alpha=6)
    weights = _random_like(params, 3)

    def through_path(adapter):
        merged = adapters.merge(params, adapters.student_lora(adapter, start, spec))
        return sum(
            jnp.vdot(x, y)
            for x, y in zip(jax.tree.leaves(merged), jax.tree.leaves(weights), strict=True)
        )

    grads = jax.jit(jax.grad(through_path))(now)
    a = now["out"]["a"]
    b = now["out"]["b"]
    np.testing.assert_allclose(
        grads["out"]["a"], 1.5 * weights["out"]["kernel"] @ b.T, rtol=1e-5, atol=1e-5
    )
    np.testing.assert_allclose(
        grads["out"]["b"], 1.5 * a.T @ weights["out"]["kernel"], rtol=1e-5, atol=1e-5
    )


def test_functions_trace_once_and_map_over_adapters(params, pair):
    now, start = pair
    spec = AdapterSpec(RANK)

    @jax.jit
    @chex.assert_max_traces(n=1)
    def traced(now, start):
        return adapters.student_lora(now, start, spec)

    chex.assert_trees_all_close(
        traced(now, start), adapters.student_lora(now, start, spec), rtol=1e-6
    )
    traced(start, now)
    many = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), now)
    batched = jax.vmap(lambda n: adapters.merge(params, adapters.student_lora(n, start, spec)))(
        many
    )
    single = adapters.merge(params, adapters.student_lora(now, start, spec))
    chex.assert_trees_all_close(jax.tree.map(lambda x: x[0], batched), single, rtol=1e-5, atol=1e-5)
