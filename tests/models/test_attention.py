"""Whole models with attention in chunks: the plain form's outputs and gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_folders import first_task, write_model

from balora_jax.errors import BadInput
from balora_jax.models import check_attention_of, init_params, load_model
from balora_jax.models.layers import attention
from balora_jax.models.layers.chunked_attention import attend_in_chunks

LENGTH = 13
# Texts of two lengths, the shorter one with padding on the right, then on the left.
MASKS = [np.arange(LENGTH) < np.array([[LENGTH], [7]])]
MASKS.append(MASKS[0][:, ::-1])


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 4 queries and 8 keys, so that the tiny texts have several."""
    chunked = functools.partial(attend_in_chunks, query_block=4, key_block=8)
    monkeypatch.setattr(attention, "attend_in_chunks", chunked)


def make(folder, model_type, name, **attributes):
    model = load_model(write_model(folder, model_type), task=first_task(model_type))
    return model.clone(attention=name, **attributes)


@pytest.mark.parametrize("model_type", ["llama", "mistral", "gemma2", "gpt2", "bert", "roberta"])
def test_logits_and_gradients_equal_those_of_the_plain_form(tmp_path, small_blocks, model_type):
    """With soft caps, and with windows that layers share and that differ between layers."""
    compare(tmp_path, model_type, remat="full")


@pytest.mark.parametrize("model_type", ["deberta-v2", "t5"])
def test_so_do_those_of_models_with_biases(tmp_path, small_blocks, model_type):
    compare(tmp_path, model_type, remat="none")


def compare(tmp_path, model_type, remat):
    """Compare logits, and the gradients of all weights, of which those of adapters are products."""
    plain = make(tmp_path, model_type, "plain", remat=remat)
    # T5 does not scale its scores: softmaxes would saturate, and rounding would hide gradients.
    factor = 1 if model_type == "t5" else 5
    params = jax.tree.map(lambda x: factor * x, init_params(plain, jax.random.key(0)))
    ids = np.random.default_rng(0).integers(3, 19, (2, LENGTH))
    # What a decoder says at padding means nothing.
    counted = first_task(model_type) == "causal-lm"

    def make_outputs(model):
        def run(params, mask):
            logits = model.apply({"params": params}, ids, mask)
            if counted:
                logits = jnp.where(mask[..., None], logits, 0)
            return jnp.square(logits).sum(), logits

        return jax.jit(jax.value_and_grad(run, has_aux=True))

    chunked_outputs = make_outputs(plain.clone(attention="chunked"))
    plain_outputs = make_outputs(plain)
    for mask in MASKS:
        ours = chunked_outputs(params, mask)
        expected = plain_outputs(params, mask)
        for one, other in zip(*map(jax.tree.leaves, (ours, expected)), strict=True):
            scale = max(1e-3, np.abs(other).max())
            np.testing.assert_allclose(one / scale, other / scale, atol=2e-5)
        assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected)) > 1e-2


def test_dropout_of_weights_is_refused_for_chunked_attention(tmp_path):
    model = make(tmp_path, "bert", "chunked")
    with pytest.raises(BadInput, match="chunked, which has no dropout of attention weights"):
        check_attention_of(model, LENGTH)
    check_attention_of(model.clone(attention="auto"), LENGTH)
    check_attention_of(make(tmp_path / "llama", "llama", "chunked"), LENGTH)
