"""Probabilities and embeddings of texts against Hugging Face's models."""

import functools

import jax
import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForSequenceClassification

from balora_jax.data import load_tokenizer
from balora_jax.evaluation.bias.embeddings import MeanEmbeddings
from balora_jax.evaluation.bias.seat import DEFAULT, measure_association
from balora_jax.evaluation.bias.text_classifier import TextClassifier
from balora_jax.evaluation.language_model import LanguageModel
from balora_jax.models import load_pretrained

TEXTS = ["This is a nurse.", "x", "He said that it was late, and then he left the house at once."]


@pytest.fixture(scope="module")
def bert(real_model):
    folder = real_model("minilm")
    load = functools.partial(load_pretrained, folder, task="sequence-classification")
    with pytest.warns(UserWarning, match="fresh|random|start"):
        model, params = load(num_labels=3, key=jax.random.key(1))
    tokenizer = load_tokenizer(str(folder))
    return folder, TextClassifier("base", model, params, None, tokenizer, max_length=64)


def test_encoder_embeddings_are_those_of_hugging_face(bert):
    folder, classifier = bert
    reference = AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        expected = [
            reference(**classifier.tokenizer(text, return_tensors="pt")).last_hidden_state[0, 0]
            for text in TEXTS
        ]
    np.testing.assert_allclose(
        classifier.embeddings(TEXTS), torch.stack(expected).numpy(), atol=2e-5
    )


def test_class_log_probs_are_those_of_hugging_face(bert):
    folder, classifier = bert
    reference = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3).eval()
    head = classifier.params["classifier"]
    with torch.no_grad():
        reference.classifier.weight.copy_(torch.tensor(np.array(head["kernel"]).T))
        reference.classifier.bias.copy_(torch.tensor(np.array(head["bias"])))
        expected = [
            reference(**classifier.tokenizer(text, return_tensors="pt")).logits[0].log_softmax(-1)
            for text in TEXTS
        ]
    found = classifier.class_log_probs(TEXTS)
    np.testing.assert_allclose(found, torch.stack(expected).numpy(), atol=2e-5)


def test_long_texts_are_cut(bert):
    _, classifier = bert
    long = "word " * 200
    np.testing.assert_allclose(
        classifier.class_log_probs([long])[0],
        classifier.class_log_probs(["word " * 62])[0],
        atol=1e-5,
    )


def test_names_and_careers_are_associated_in_a_real_encoder(bert):
    _, classifier = bert
    result = measure_association(DEFAULT[0], classifier)
    assert result.effect_size.low > 0.5
    assert result.p_value < 1e-3


def test_decoder_embeddings_are_the_mean_of_hidden_states(tiny_llama):
    model, params = load_pretrained(tiny_llama)
    language_model = LanguageModel("base", model, params, None, load_tokenizer(str(tiny_llama)))
    texts = ["12+3=15", "7", "0" * 40]
    reference = AutoModel.from_pretrained(tiny_llama).eval()
    expected = []
    for text in texts:
        prefix, tokens = language_model.encode_pair("", text)
        with torch.no_grad():
            states = reference(torch.tensor([prefix + tokens])).last_hidden_state[0]
        expected.append(states[1:].mean(dim=0).numpy())
    found = MeanEmbeddings(language_model).embeddings(texts)
    np.testing.assert_allclose(found, np.stack(expected), atol=2e-5)


def test_embeddings_of_a_decoder_with_a_head_are_the_last_tokens(tiny_llama):
    with pytest.warns(UserWarning, match="fresh"):
        model, params = load_pretrained(tiny_llama, task="sequence-classification", num_labels=2)
    tokenizer = load_tokenizer(str(tiny_llama))
    classifier = TextClassifier("base", model, params, None, tokenizer, max_length=32)
    reference = AutoModel.from_pretrained(tiny_llama).eval()
    texts = ["12+3=15", "7", "0" * 20]
    with torch.no_grad():
        expected = [
            reference(torch.tensor([tokenizer(text)["input_ids"]])).last_hidden_state[0, -1].numpy()
            for text in texts
        ]
    np.testing.assert_allclose(classifier.embeddings(texts), np.stack(expected), atol=2e-5)
