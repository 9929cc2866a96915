"""Decoders: parity with PyTorch in float32, padding, recomputation and element types."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from decoder_cases import CASES
from pytorch_reference import relative, run, torch_logits
from transformers import AutoModelForCausalLM, AutoTokenizer

from balora_jax.config import MeshConfig
from balora_jax.models import abstract_params, head, init_params, load_pretrained
from balora_jax.models.decoder import model as decoder
from balora_jax.training.sharding import make_mesh, put, tree_shardings

TOLERANCE = 1e-4


def padded_batch(vocab: int, length: int = 17) -> tuple[np.ndarray, np.ndarray]:
    """Whole, right-padded and left-padded rows."""
    ids = np.random.default_rng(0).integers(3, vocab, (3, length))
    mask = np.ones(ids.shape, bool)
    mask[1, -4:] = False
    mask[2, :6] = False
    return ids, mask


@pytest.mark.parametrize("name", CASES)
def test_logits_equal_pytorch(name, tiny):
    reference = tiny(name, CASES[name])
    model, params = load_pretrained(reference.folder)
    ids, mask = padded_batch(model.config.vocab_size)
    positions = np.maximum(mask.cumsum(-1) - 1, 0)
    ours = run(model, {"params": params}, ids, mask)
    assert relative(ours, reference.logits(ids, mask, position_ids=positions), mask) < TOLERANCE
    assert ours.dtype == jnp.float32


def test_each_text_has_the_factors_of_its_own_length(tiny):
    """Of Phi 4 mini, for which transformers takes the longest text of the batch."""
    reference = tiny("phi4-mini", CASES["phi4-mini"])
    model, params = load_pretrained(reference.folder)
    ids = np.random.default_rng(0).integers(3, 60, (2, 14))
    mask = np.ones(ids.shape, bool)
    mask[1, 10:] = False
    ours = run(model, {"params": params}, ids, mask)
    for row, length in enumerate((14, 10)):
        theirs = reference.logits(ids[row : row + 1, :length])
        assert relative(ours[row : row + 1, :length], theirs) < TOLERANCE
    short = reference.logits(ids[:1, :10])
    assert relative(ours[:1, :10], short) > 1e-2


@pytest.mark.parametrize("name", ["llama", "llama-tied", "gemma2", "granite", "gemma3"])
def test_head_on_hidden_states_gives_the_logits(name, tiny):
    model, params = load_pretrained(tiny(name, CASES[name]).folder)
    ids, mask = padded_batch(model.config.vocab_size)
    hidden = jax.jit(partial(model.apply, method="hidden_states"))({"params": params}, ids, mask)
    assert hidden.shape == (*ids.shape, model.config.hidden_size)
    logits = jax.jit(lambda h, x: h.logits(x))(head(model, params), hidden)
    np.testing.assert_allclose(logits, run(model, {"params": params}, ids, mask), atol=1e-5)


@pytest.mark.parametrize("name", ["phi3", "mixtral", "gemma3"])
def test_a_mesh_changes_no_logits(name, tiny):
    """Of fused projections, divided elsewhere than between devices, and of experts."""
    model, params = load_pretrained(tiny(name, CASES[name]).folder)
    ids, mask = padded_batch(model.config.vocab_size)
    shardings = tree_shardings(make_mesh(MeshConfig(2, 2, 2)), params, model.sharding_rules)
    divided = [not sharding.is_fully_replicated for sharding in jax.tree.leaves(shardings)]
    assert sum(divided) > len(divided) / 3
    placed = jax.tree.map(put, params, shardings)
    expected = np.asarray(run(model, {"params": params}, ids, mask))
    assert relative(run(model, {"params": placed}, ids, mask), expected, mask) < TOLERANCE


def test_no_attention_mask_means_no_padding(tiny):
    model, params = load_pretrained(tiny("llama", CASES["llama"]).folder)
    ids, _ = padded_batch(model.config.vocab_size)
    ones = run(model, {"params": params}, ids, np.ones(ids.shape, np.int32))
    np.testing.assert_array_equal(run(model, {"params": params}, ids), ones)


@pytest.mark.parametrize("name", ["llama", "gemma2", "mixtral"])
def test_masked_rows_give_finite_values_and_gradients(name, tiny):
    model, params = load_pretrained(tiny(name, CASES[name]).folder)
    ids, mask = padded_batch(model.config.vocab_size)
    mask[0] = False

    def loss(params):
        return jnp.square(model.apply({"params": params}, ids, mask)).mean()

    value, gradient = jax.jit(jax.value_and_grad(loss))(params)
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_remat_changes_memory_and_not_gradients(tiny):
    plain, params = load_pretrained(tiny("mistral", CASES["mistral"]).folder)
    ids, mask = padded_batch(plain.config.vocab_size)

    def gradient(model):
        loss = jax.jit(jax.grad(lambda p: jnp.square(model.apply({"params": p}, ids, mask)).mean()))
        return loss.lower(params).compile()

    none, dots, full = (gradient(plain.clone(remat=remat)) for remat in ("none", "dots", "full"))
    for again in (dots, full):
        for ours, theirs in zip(
            jax.tree.leaves(again(params)), jax.tree.leaves(none(params)), strict=True
        ):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    kept = [program.memory_analysis().temp_size_in_bytes for program in (none, dots, full)]
    assert kept[0] > kept[1] > kept[2]


def test_bfloat16_computes_near_float32(tiny):
    model, params = load_pretrained(tiny("llama", CASES["llama"]).folder)
    ids, mask = padded_batch(model.config.vocab_size)
    half = model.clone(dtype=jnp.bfloat16)
    hidden = half.apply({"params": params}, ids, mask, method="hidden_states")
    logits = run(half, {"params": params}, ids, mask)
    assert (hidden.dtype, logits.dtype) == (jnp.bfloat16, jnp.float32)
    assert 0 < relative(logits, np.asarray(run(model, {"params": params}, ids, mask)), mask) < 0.05


def test_fresh_parameters_have_the_loaded_shapes(tiny):
    model, params = load_pretrained(tiny("qwen3", CASES["qwen3"]).folder)
    fresh = init_params(model, jax.random.key(0))
    shapes = jax.tree.map(jnp.shape, params)
    assert (
        jax.tree.map(jnp.shape, fresh)
        == shapes
        == jax.tree.map(lambda leaf: leaf.shape, abstract_params(model))
    )
    kernel = fresh["model"]["layers"]["mlp"]["up_proj"]["kernel"]
    assert abs(float(kernel.std()) - model.config.init_std) < 1e-3
    assert not np.array_equal(kernel[0], kernel[1])


@pytest.mark.parametrize("name", ["stories260k", "smollm2"])
def test_real_weights_on_real_text_equal_pytorch(name, real_model, shared):
    folder = real_model(name)
    lines = (shared / "data" / "gsm8k" / "test.jsonl").read_text(encoding="utf-8").splitlines()[:2]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = tokenizer(lines)["input_ids"]
    length = min(128, min(map(len, texts)))
    ids = np.asarray([text[:length] for text in texts])
    theirs = torch_logits(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), ids)
    model, params = load_pretrained(folder)
    ours = run(model, {"params": params}, ids)
    assert relative(ours, theirs) < TOLERANCE


def test_factors_are_not_rounded_to_the_element_type():
    """Granite's: rounded to bfloat16, they would be up to 0.4 % off, alike in all layers."""
    values = jnp.linspace(1, 2, 4096).astype(jnp.bfloat16)
    for factor in (0.22, 1 / 6, 1 / 13):
        scaled = decoder._scaled(values, factor)
        exact = np.asarray(values, np.float64) * factor
        assert scaled.dtype == jnp.bfloat16
        assert abs(np.mean(np.asarray(scaled, np.float64) / exact) - 1) < 2e-4
