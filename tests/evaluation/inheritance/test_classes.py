"""Predicted classes and moved features, against counts and kernels by hand."""

import numpy as np
import pytest

from balora_jax import data
from balora_jax.evaluation.inheritance.classes import (
    measure_balance,
    measure_feature_drift,
    predicted_answers,
)
from balora_jax.evaluation.language_model import LanguageModel
from balora_jax.models import load_pretrained


def test_shares_are_counted():
    predictions = [0, 0, 0, 1, 1, 0, 0, 0]
    labels = [0, 1, 0, 1, 0, 2, 2, 0]
    balance = measure_balance(predictions, labels, ("a", "b", "c"))
    assert [share.value for share in balance.predicted] == [0.75, 0.25, 0.0]
    assert balance.right == (0.5, 0.25, 0.25)
    assert balance.accuracy.value == 0.5
    assert balance.entropy == pytest.approx(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25)))
    assert balance.predicted[0].low < 0.75 < balance.predicted[0].high


def test_one_class_has_no_entropy():
    assert measure_balance([1, 1, 1], [0, 1, 1], ("a", "b")).entropy == 0


def test_the_likeliest_answer_is_chosen(tiny_llama):
    module, params = load_pretrained(tiny_llama)
    model = LanguageModel("base", module, params, None, data.load_tokenizer(tiny_llama))
    prompts = [[5, 6, 7], [8, 9], list(range(3, 30))]
    answers = [[10], [11, 12], [13, 14, 15]]
    expected = []
    for prompt in prompts:
        totals = []
        for answer in answers:
            ids = np.array([[*prompt, *answer]])
            logits = np.asarray(module.apply({"params": params}, ids), np.float64)[0]
            log_probs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
            places = range(len(prompt) - 1, len(prompt) + len(answer) - 1)
            totals.append(sum(log_probs[p, t] for p, t in zip(places, answer, strict=True)))
        expected.append(int(np.argmax(totals)))
    assert predicted_answers(model, prompts, answers).tolist() == expected


def test_a_rotation_and_a_scale_keep_the_alignment():
    rng = np.random.default_rng(0)
    before = rng.normal(size=(40, 6))
    rotation = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    moved = measure_feature_drift(before, 3 * before @ rotation)
    assert moved.alignment == pytest.approx(1)
    assert moved.distance.value > 0.1
    same = measure_feature_drift(before, 2 * before)
    assert same.distance.value == pytest.approx(0, abs=1e-12)
    assert measure_feature_drift(before, -before).distance.value == pytest.approx(2)


def test_the_alignment_is_that_of_kernels():
    """CKA with whole kernels [texts, texts], as the paper defines it."""
    rng = np.random.default_rng(1)
    before = rng.normal(size=(30, 5))
    after = rng.normal(size=(30, 8))
    after[:, :5] += before
    centered = np.eye(30) - 1 / 30
    kernels = [centered @ x @ x.T @ centered for x in (before, after)]
    shared = np.sum(kernels[0] * kernels[1])
    expected = shared / np.sqrt(np.sum(kernels[0] ** 2) * np.sum(kernels[1] ** 2))
    padded = np.pad(before, ((0, 0), (0, 3)))
    assert measure_feature_drift(padded, after).alignment == pytest.approx(expected)
