"""Sentences after one BOS, whole."""

import pytest
from language_model_cases import GivenModel

from balora_jax.data import load_tokenizer
from balora_jax.errors import BadInput
from balora_jax.evaluation.bias.sentences import sentence_scores
from balora_jax.evaluation.language_model import LanguageModel
from balora_jax.evaluation.tiny_world.embedded import MODEL
from balora_jax.models import load_pretrained


def test_each_sentence_is_read_after_one_bos():
    model, params = load_pretrained(MODEL)
    model = LanguageModel("base", model, params, None, load_tokenizer(str(MODEL)))
    scores = sentence_scores(model, ["The nurse said she", "The nurse said"])
    next_log_probs = model.next_log_probs(["The nurse said"])[0]
    token = model.encode("x she", special=False)[-1]
    assert [score.tokens for score in scores] == [4, 3]
    assert scores[0].log_likelihood - scores[1].log_likelihood == pytest.approx(
        float(next_log_probs[token]), abs=1e-4
    )


@pytest.mark.parametrize("sentence", [" ", "word " * 1001])
def test_sentences_that_the_model_cannot_read(sentence):
    with pytest.raises(BadInput, match="tokens; accepted: 1 to 1000"):
        sentence_scores(GivenModel(lambda text: 0.0), [sentence])
