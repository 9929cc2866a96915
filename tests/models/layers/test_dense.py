"""Dense and the decoder with a `lora` collection: the side path equals a merged kernel."""

import jax
import jax.numpy as jnp
import numpy as np
from decoder_cases import CASES
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
from pytorch_reference import run

from balora_jax.adapters import merge
from balora_jax.adapters.linen import check_lora_paths
from balora_jax.models import load_pretrained
from balora_jax.models.layers.dense import Dense, activate_and_project
from balora_jax.models.layers.options import LayerOptions

# The shapes of an adapter for a kernel [40, 6].
AB = (("a", (40, 3)), ("b", (3, 6)))
IDS = np.random.default_rng(0).integers(3, 67, (2, 9))


def random_lora(params: dict, names: tuple[str, ...], rank: int = 3) -> dict:
    lora = {}
    for path, leaf in flatten_dict(params).items():
        if path[-1] == "kernel" and path[-2] in names:
            keys = jax.random.split(jax.random.key(len(lora)))
            stack = leaf.shape[:-2]
            lora[*path[:-1], "a"] = 0.3 * jax.random.normal(keys[0], (*stack, leaf.shape[-2], rank))
            lora[*path[:-1], "b"] = 0.3 * jax.random.normal(keys[1], (*stack, rank, leaf.shape[-1]))
    return unflatten_dict(lora)


def test_side_path_equals_merged_kernels(tiny):
    model, params = load_pretrained(tiny("llama", CASES["llama"]).folder)
    lora = random_lora(params, ("q_proj", "v_proj", "down_proj", "lm_head"))
    check_lora_paths(lora, params)
    plain = run(model, {"params": params}, IDS)
    ours = run(model, {"params": params, "lora": lora}, IDS)
    merged = run(model, {"params": merge(params, lora)}, IDS)
    np.testing.assert_allclose(ours, merged, rtol=1e-4, atol=1e-3)
    assert np.abs(ours - plain).max() > 0.1


def test_an_empty_collection_changes_nothing(tiny):
    model, params = load_pretrained(tiny("llama", CASES["llama"]).folder)
    plain = run(model, {"params": params}, IDS)
    np.testing.assert_array_equal(run(model, {"params": params, "lora": {}}, IDS), plain)


def test_dropout_differs_by_key_and_only_acts_in_training(tiny):
    model, params = load_pretrained(tiny("llama", CASES["llama"]).folder)
    lora = random_lora(params, ("q_proj", "lm_head"))
    variables = {"params": params, "lora": lora}
    dropping = model.clone(lora_dropout=0.5, remat="dots")
    np.testing.assert_allclose(run(dropping, variables, IDS), run(model, variables, IDS), atol=1e-5)

    @jax.jit
    def train(variables, key):
        return dropping.apply(variables, IDS, deterministic=False, rngs={"dropout": key})

    first, again, other = (train(variables, jax.random.key(k)) for k in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3
    bare = {"params": params}
    np.testing.assert_allclose(train(bare, jax.random.key(0)), run(dropping, bare, IDS), atol=1e-5)


def test_dropout_keeps_the_expected_side_path():
    dense = Dense(6, LayerOptions(lora_dropout=0.25))
    x = jax.random.normal(jax.random.key(0), (5, 8))
    keys = jax.random.split(jax.random.key(1), 3)
    params = {"kernel": jnp.zeros((8, 6))}
    lora = {"a": jax.random.normal(keys[0], (8, 2)), "b": jax.random.normal(keys[1], (2, 6))}

    def run(key):
        return dense.apply({"params": params, "lora": lora}, x, rngs={"dropout": key})

    mean = jax.vmap(run)(jax.random.split(keys[2], 20000)).mean(axis=0)
    np.testing.assert_allclose(mean, x @ lora["a"] @ lora["b"], atol=0.15)


def test_gradients_of_adapters_flow_through_scan_and_remat(tiny):
    model, params = load_pretrained(tiny("llama", CASES["llama"]).folder)
    lora = random_lora(params, ("q_proj", "down_proj"))

    def loss(merged, remat):
        def value(lora):
            variables = (
                {"params": merge(params, lora)} if merged else {"params": params, "lora": lora}
            )
            return jnp.square(model.clone(remat=remat).apply(variables, IDS)).mean()

        return jax.jit(jax.grad(value))(lora)

    theirs = loss(True, "none")
    for remat in ("none", "full"):
        for ours, other in zip(*map(jax.tree.leaves, (loss(False, remat), theirs)), strict=True):
            np.testing.assert_allclose(ours, other, rtol=1e-3, atol=1e-4)
            assert np.abs(other).max() > 1e-3


def test_the_base_is_not_baked_into_the_program(tiny):
    model, params = load_pretrained(tiny("llama", CASES["llama"]).folder)
    text = jax.jit(model.apply).lower({"params": params}, IDS).as_text()
    largest = max(
        (len(line) for line in text.splitlines() if "stablehlo.constant" in line), default=0
    )
    assert largest < 2000


def gated(gate, up):
    return jnp.tanh(gate) * up


class ActivatedDense(nn.Module):
    """An activation of two arguments, then a dense layer.

    Attributes:
      kept: True to keep the activation's value for the backward pass.
    """

    kept: bool

    @nn.compact
    def __call__(self, gate, up):
        dense = Dense(6, LayerOptions(), use_bias=True, name="dense")
        return dense(gated(gate, up)) if self.kept else activate_and_project(gated, dense, gate, up)


def test_a_recomputed_activation_changes_nothing_and_is_not_kept():
    rng = np.random.default_rng(0)
    gate, up, cotangent = (
        jnp.asarray(rng.normal(size=(50, width)), jnp.float32) for width in (40, 40, 6)
    )
    params = ActivatedDense(True).init(jax.random.key(0), gate, up)["params"]
    lora = {"dense": {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in AB}}

    def value_and_backward(kept):
        def apply(params, lora, gate, up):
            return ActivatedDense(kept).apply({"params": params, "lora": lora}, gate, up)

        return jax.vjp(apply, params, lora, gate, up)

    plain, plain_backward = value_and_backward(True)
    recomputed, recomputed_backward = value_and_backward(False)
    np.testing.assert_allclose(recomputed, plain, rtol=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5),
        recomputed_backward(cotangent),
        plain_backward(cotangent),
    )
    wide = [leaf for leaf in jax.tree.leaves(recomputed_backward) if leaf.shape == gate.shape]
    assert len(wide) == 2
    assert all(any((leaf == argument).all() for argument in (gate, up)) for leaf in wide)
