"""Effective ranks against singular values of whole matrices in float64."""

import numpy as np
import pytest

from balora_jax import data
from balora_jax.evaluation.inheritance.collapse import (
    effective_rank,
    feature_rank,
    measure_ranks,
)
from balora_jax.evaluation.language_model import LanguageModel
from balora_jax.models import load_pretrained

PASSAGES = ["1+1=2", "a longer passage of text, with letters", "x", "9" * 200]


@pytest.mark.parametrize(
    ("values", "expected"), [([3.0], 1.0), ([1.0] * 7, 7.0), ([1.0, 0.0], 1.0), ([2.0, 2.0, 0], 2)]
)
def test_equal_directions_are_counted(values, expected):
    assert effective_rank(np.array(values)) == pytest.approx(expected)


def test_the_rank_of_features_is_that_of_their_singular_values():
    features = np.random.default_rng(0).normal(size=(20, 7)) * np.arange(1, 8)
    expected = effective_rank(np.linalg.svd(features, compute_uv=False))
    assert feature_rank(features) == pytest.approx(expected)


# The second has fewer tokens than the model is wide: most eigenvalues are rounding alone.
@pytest.mark.parametrize("passages", [PASSAGES, ["1+1=2", "2+2=4"]])
def test_ranks_are_those_of_whole_matrices(tiny_llama, passages):
    module, params = load_pretrained(tiny_llama)
    model = LanguageModel("base", module, params, None, data.load_tokenizer(tiny_llama))
    hidden = []
    logits = []
    for passage in passages:
        for context, continuation in model.windows(model.encode(passage, special=False)):
            ids = np.array([[*context, *continuation][:-1]])
            count = len(continuation)
            states = module.apply({"params": params}, ids, method="hidden_states")
            hidden.append(np.asarray(states, np.float64)[0, -count:])
            logits.append(np.asarray(module.apply({"params": params}, ids), np.float64)[0, -count:])
    ranks = measure_ranks(model, passages)
    for found, matrix in ((ranks.hidden, hidden), (ranks.logits, logits)):
        values = np.linalg.svd(np.concatenate(matrix), compute_uv=False)
        assert found == pytest.approx(effective_rank(values), rel=1e-3)
    assert ranks.hidden <= min(ranks.tokens, module.config.hidden_size)
    assert ranks.tokens == sum(len(part) for part in hidden)
