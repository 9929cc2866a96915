"""The tiny tokenizer: one token a word, bytes for any other text, and decoding back."""

import pytest
from transformers import AutoTokenizer

from balora_jax.evaluation.tiny_world.vocabulary import make_tokenizer, save_tokenizer

TEXTS = ["Question: What is 7 plus 12? Answer: 19", "Ada lives in Oban. 19 eggs, 7 coins."]


@pytest.fixture
def tokenizer(tmp_path):
    save_tokenizer(make_tokenizer(TEXTS), tmp_path)
    return AutoTokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize("text", TEXTS)
def test_known_words_are_one_token_each(tokenizer, text):
    tokens = tokenizer.tokenize(text)
    assert not [token for token in tokens if token.startswith("<0x")]
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == "<s> " + text


@pytest.mark.parametrize(
    "text", ["Zebra 123?", "Größe — 漢字", "two  spaces\nand a line", "a_b <s>x", "▁"]
)
def test_other_text_comes_back_from_bytes(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids).replace("<s> ", "<s>") == text.replace("▁", " ")


def test_an_answer_alone_has_the_same_tokens_as_in_a_text(tokenizer):
    whole = tokenizer("Answer: 19")["input_ids"]
    prompt = tokenizer("Answer:")["input_ids"]
    answer = tokenizer("19", add_special_tokens=False)["input_ids"]
    assert whole == prompt + answer


def test_special_tokens(tokenizer):
    assert tokenizer("Ada")["input_ids"][0] == tokenizer.bos_token_id
    assert tokenizer.bos_token == "<s>"
    assert tokenizer.eos_token == "</s>"
    assert tokenizer.pad_token == "</s>"
    assert tokenizer("Ada</s>")["input_ids"][-1] == tokenizer.eos_token_id
    assert max(tokenizer.get_vocab().values()) == len(tokenizer) - 1
