"""Prompts of Alpaca's template, a chat template and custom texts, and bad templates."""

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from balora_jax.data.prompts import fill, make_template, parse_template
from balora_jax.errors import BadInput

CHATML = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}"
    "<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture
def tokenizer():
    words = Tokenizer(
        models.WordLevel({"<unk>": 0, "</s>": 1, "<end_of_turn>": 2}, unk_token="<unk>")
    )
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="</s>", extra_special_tokens=["<end_of_turn>"]
    )


def test_alpaca_without_input(tokenizer):
    text = make_template("alpaca", tokenizer).render({"instruction": "Add 1 and {x}."})
    assert text == (
        "Below is an instruction that describes a task. "
        "Write a response that appropriately completes the request."
        "\n\n### Instruction:\nAdd 1 and {x}.\n\n### Response:"
    )
    assert text == make_template("alpaca", tokenizer).render(
        {"instruction": "Add 1 and {x}.", "input": ""}
    )


def test_alpaca_with_input(tokenizer):
    assert make_template("alpaca", tokenizer).render({"instruction": "Add.", "input": "1, 2"}) == (
        "Below is an instruction that describes a task, "
        "paired with an input that provides further context. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nAdd.\n\n### Input:\n1, 2\n\n### Response:"
    )


def test_custom_text_looks_names_up_and_nothing_else(tokenizer):
    template = make_template("{{{input}}} {my field}:{a.b}", tokenizer)
    assert template.names == ("input", "my field", "a.b")
    assert (
        template.render({"input": "{instruction}", "my field": "2", "a.b": "3"})
        == "{{instruction}} 2:3"
    )
    assert template.ending == (tokenizer.eos_token_id,)
    assert template.adds_special_tokens


def test_plain_asks_nothing(tokenizer):
    template = make_template("plain", tokenizer)
    assert (template.names, template.render({"response": "x"})) == ((), "")


def test_braces_come_back():
    assert fill(parse_template('{{"q": "{q}"}}'), {"q": "1"}) == '{"q": "1"}'


@pytest.mark.parametrize("text", ["alpacca", "", "{", "}", "{}", "{x!r}", "{x:>9}", '{"q": {x}}'])
def test_says_what_a_template_may_be(tokenizer, text):
    with pytest.raises(
        BadInput, match=r"accepted: alpaca, chat, plain, or a text with \{instruction\}"
    ):
        make_template(text, tokenizer)


def test_chat_uses_the_tokenizers_form_and_its_end_of_turn(tokenizer):
    tokenizer.chat_template = CHATML
    template = make_template("chat", tokenizer)
    assert (
        template.render({"instruction": "Add.", "input": "1"})
        == "<|user|>Add.\n\n1<end_of_turn>\n<|assistant|>"
    )
    assert template.ending == (2,)
    assert not template.adds_special_tokens


@pytest.mark.parametrize("after", ["", " over\n"])
def test_chat_ends_with_eos_where_the_template_has_no_special_token(tokenizer, after):
    tokenizer.chat_template = CHATML.replace("<end_of_turn>\n", after)
    assert make_template("chat", tokenizer).ending == (tokenizer.eos_token_id,)


def test_chat_needs_a_chat_template(tokenizer):
    with pytest.raises(BadInput, match="the tokenizer has no chat template"):
        make_template("chat", tokenizer)


def test_a_chat_template_that_raises_is_reported(tokenizer):
    tokenizer.chat_template = "{{ raise_exception('system message needed') }}"
    with pytest.raises(BadInput, match="chat template cannot be used: system message needed"):
        make_template("chat", tokenizer)


def test_needs_an_end_of_sequence_token():
    words = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    )
    with pytest.raises(BadInput, match="no end-of-sequence token"):
        make_template("alpaca", words)
