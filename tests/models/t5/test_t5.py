"""T5 from text to text against PyTorch, and the buckets of its relative positions."""

from functools import partial

import jax
import numpy as np
import pytest
import torch
from classifier_cases import CASES
from pytorch_reference import relative, run, torch_logits
from transformers import AutoModelForSeq2SeqLM
from transformers.models.t5.modeling_t5 import T5Attention

from balora_jax.generation import answer
from balora_jax.models import head, load_pretrained, save_pretrained
from balora_jax.models.t5.layers import position_buckets
from balora_jax.models.t5.model import shift_right

TASK = "seq2seq-lm"


def batch():
    rng = np.random.default_rng(0)
    ids = rng.integers(3, 67, (3, 21))
    answers = rng.integers(3, 67, (3, 9))
    mask = np.arange(21) < np.asarray([[21], [15], [3]])
    return np.where(mask, ids, 0), mask, np.asarray(shift_right(answers, 0))


@pytest.fixture
def language_model(tiny):
    return lambda name: tiny(f"{name}-lm", CASES[name], AutoModelForSeq2SeqLM)


@pytest.mark.parametrize("name", ["t5", "t5-gated"])
def test_logits_equal_pytorch(name, language_model):
    reference = language_model(name)
    model, params = load_pretrained(reference.folder, task=TASK)
    ids, mask, answers = batch()
    ours = run(model, {"params": params}, ids, mask, answers)
    assert relative(ours, reference.logits(ids, mask, decoder_input_ids=answers)) < 1e-4
    hidden = jax.jit(partial(model.apply, method="hidden_states"))(
        {"params": params}, ids, mask, answers
    )
    np.testing.assert_allclose(head(model, params).logits(hidden), ours, atol=1e-4)


def test_decoding_from_an_encoded_text_gives_the_same_logits(language_model):
    model, params = load_pretrained(language_model("t5").folder, task=TASK)
    ids, mask, answers = batch()
    encoded = jax.jit(partial(model.apply, method="encode"))({"params": params}, ids, mask)
    ours = jax.jit(partial(model.apply, method="answer"))({"params": params}, answers, encoded)
    np.testing.assert_allclose(ours, run(model, {"params": params}, ids, mask, answers), atol=1e-4)


def test_an_untied_head_is_kept(language_model, tmp_path):
    reference = language_model("t5-gated")
    torch.manual_seed(5)
    untied = AutoModelForSeq2SeqLM.from_pretrained(
        reference.folder, attn_implementation="eager"
    ).eval()
    untied.config.tie_word_embeddings = False
    untied.lm_head.weight = torch.nn.Parameter(torch.randn(67, 32))
    untied.save_pretrained(tmp_path / "untied")
    model, params = load_pretrained(tmp_path / "untied", task=TASK)
    ids, mask, answers = batch()
    ours = run(model, {"params": params}, ids, mask, answers)
    assert relative(ours, torch_logits(untied, ids, mask, decoder_input_ids=answers)) < 1e-4
    saved = save_pretrained(tmp_path / "saved", params, source=tmp_path / "untied", task=TASK)
    again = load_pretrained(saved, task=TASK)
    assert again[0] == model
    assert jax.tree.all(
        jax.tree.map(lambda left, right: bool((left == right).all()), params, again[1])
    )


def test_answers_equal_pytorch(language_model):
    reference = language_model("t5-gated")
    model, params = load_pretrained(reference.folder, task=TASK)
    ids, mask, _ = batch()
    given = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask).long()}
    theirs = reference.model.generate(
        **given, max_new_tokens=6, do_sample=False, eos_token_id=None
    )[:, 1:].numpy()
    eos = int(theirs[0, 3])
    ours = answer(model, params, None, ids, mask, max_new_tokens=6, eos_ids=[eos])
    for row, tokens in enumerate(theirs):
        length = next((at for at, token in enumerate(tokens) if token == eos), 6)
        assert ours.lengths[row] == length
        np.testing.assert_array_equal(ours.tokens[row], np.where(np.arange(6) < length, tokens, 0))
    assert len(np.unique(theirs)) > 2


@pytest.mark.parametrize(("buckets", "max_distance"), [(32, 128), (8, 14), (64, 256), (32, 20)])
@pytest.mark.parametrize("both_ways", [True, False])
def test_buckets_equal_pytorch(buckets, max_distance, both_ways):
    distance = np.arange(-3000, 3001)
    theirs = T5Attention._relative_position_bucket(
        torch.tensor(distance), both_ways, buckets, max_distance
    )
    np.testing.assert_array_equal(
        position_buckets(distance, buckets, max_distance, both_ways=both_ways), theirs
    )
