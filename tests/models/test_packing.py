"""Packed texts in every decoder: the scores of single texts."""

import numpy as np
import pytest
from decoder_cases import CASES, SIZES, longrope
from transformers import GPT2Config, LlamaConfig

from balora_jax.generation.scoring import score
from balora_jax.models import load_pretrained

GPT2 = GPT2Config(
    vocab_size=67, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=2
)


# Of each beginning, all texts are beyond the original length or none is.
LONGROPE = LlamaConfig(**SIZES, rope_parameters=longrope(4, 11))
OTHERS = {"gpt2": GPT2, "longrope": LONGROPE}
NAMES = ["llama", "gemma2", "mistral", "qwen3-window", "gpt2", "longrope", "gemma3_text"]


@pytest.mark.parametrize("name", NAMES)
def test_packed_scores_are_those_of_single_texts(tiny, name):
    """With windows shorter than the texts, soft caps and learned positions."""
    folder = tiny(f"packed-{name}", OTHERS.get(name) or CASES[name]).folder
    model, params = load_pretrained(folder)
    rng = np.random.default_rng(0)
    contexts = [rng.integers(3, 60, size).tolist() for size in (30, 12, 3)]
    answers = [rng.integers(3, 60, size).tolist() for size in (1, 1, 4, 9)]
    pairs = [(context, answer) for context in contexts for answer in answers]
    pairs += [(contexts[0][:20], contexts[0][20:]), (contexts[1], answers[0])]
    together = dict(score(model, params, None, pairs, max_length=64))
    for index, (context, answer) in enumerate(pairs):
        logits = model.apply({"params": params}, np.array([[*context, *answer][:-1]]))
        logits = np.asarray(logits, np.float64)[0, len(context) - 1 :]
        log_probs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        expected = log_probs[np.arange(len(answer)), answer].sum()
        np.testing.assert_allclose(together[index].log_likelihood, expected, atol=2e-5)
