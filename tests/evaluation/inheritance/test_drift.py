"""Drift against whole logits in float64, and of a model from itself."""

import json

import jax
import numpy as np
import pytest

from balora_jax import data
from balora_jax.evaluation.inheritance.drift import measure_drift, token_sums
from balora_jax.evaluation.language_model import LanguageModel
from balora_jax.models import load_pretrained

PASSAGES = ["1+1=2", "a longer passage of text, with letters", "x", "9" * 300, "ab " * 20]


@pytest.fixture(scope="module")
def base(tiny_llama):
    model, params = load_pretrained(tiny_llama)
    return LanguageModel("base", model, params, None, data.load_tokenizer(tiny_llama))


def _tuned(base, size):
    up = base.params["model"]["layers"]["mlp"]["up_proj"]["kernel"]
    layers, rows, columns = up.shape
    draws = jax.random.split(jax.random.key(0))
    a = size * jax.random.normal(draws[0], (layers, rows, 2))
    b = jax.random.normal(draws[1], (layers, 2, columns))
    lora = {"model": {"layers": {"mlp": {"up_proj": {"a": a, "b": b}}}}}
    return LanguageModel("adapter", base.model, base.params, lora, base.tokenizer)


def _log_probs(model, ids):
    variables = {"params": model.params, "lora": model.lora or {}}
    logits = np.asarray(model.model.apply(variables, np.array([ids])), np.float64)[0]
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def _reference(base, tuned, passage):
    """The sums over the tokens of a passage, from whole logits."""
    total = np.zeros(7)
    tokens = 0
    for context, continuation in base.windows(base.encode(passage, special=False)):
        ids = [*context, *continuation][:-1]
        left = _log_probs(base, ids)[-len(continuation) :]
        right = _log_probs(tuned, ids)[-len(continuation) :]
        places = np.arange(len(continuation)), continuation
        total += [
            np.sum(np.exp(left) * (left - right)),
            np.sum(np.exp(right) * (right - left)),
            np.sum(left.argmax(-1) == right.argmax(-1)),
            -left[places].sum(),
            -right[places].sum(),
            -np.sum(np.exp(left) * left),
            -np.sum(np.exp(right) * right),
        ]
        tokens += len(continuation)
    return total, tokens


def test_sums_are_those_of_whole_logits(base):
    tuned = _tuned(base, 0.05)
    encoded = [base.encode(passage, special=False) for passage in PASSAGES]
    sums, counts = token_sums(base, tuned, encoded)
    for index, passage in enumerate(PASSAGES):
        expected, tokens = _reference(base, tuned, passage)
        found = np.array([part[index] for part in sums])
        np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-4)
        assert counts[index] == tokens


def test_values_are_means_over_tokens(base):
    tuned = _tuned(base, 0.05)
    drift = measure_drift(base, tuned, PASSAGES)
    expected = [_reference(base, tuned, passage) for passage in PASSAGES]
    tokens = sum(count for _, count in expected)
    means = sum(sums for sums, _ in expected) / tokens
    found = [
        drift.forward, drift.backward, drift.agreement, drift.loss_before, drift.loss_after,
        drift.entropy_before, drift.entropy_after,
    ]  # fmt: skip
    np.testing.assert_allclose([interval.value for interval in found], means, rtol=1e-4)
    assert drift.forgetting.value == pytest.approx(means[4] - means[3], abs=1e-4)
    assert drift.perplexity_before == pytest.approx(np.exp(means[3]), rel=1e-4)
    assert all(interval.low <= interval.value <= interval.high for interval in found)
    assert drift.tokens == tokens and drift.passages == len(PASSAGES)
    divergences = [passage.divergence for passage in drift.most_changed]
    assert divergences == sorted(divergences, reverse=True) and len(divergences) == 5
    json.dumps(drift.to_json())


def test_a_model_does_not_drift_from_itself(base):
    drift = measure_drift(base, base, PASSAGES)
    assert (drift.forward.value, drift.backward.value, drift.agreement.value) == (0.0, 0.0, 1.0)
    assert (drift.forgetting.low, drift.forgetting.high) == (0.0, 0.0)


def test_a_larger_change_drifts_further(base):
    small, large = (measure_drift(base, _tuned(base, size), PASSAGES) for size in (0.01, 0.1))
    assert 0 < small.forward.value < large.forward.value
    assert small.agreement.value > large.agreement.value
