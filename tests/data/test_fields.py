"""Sets of known shapes: the same tokens in every shape, and what was read is said."""

import json

import numpy as np
import pytest

from balora_jax import data
from balora_jax.config import DataConfig
from balora_jax.data.fields import recognize_fields
from balora_jax.errors import BadInput

SHAPES = {
    "roles": ("instruction", "response"),
    "alpaca": ("instruction", "output"),
    "trl": ("prompt", "completion"),
    "prompt": ("prompt", "response"),
    "questions": ("question", "answer"),
    "metamath": ("query", "response"),
}


@pytest.fixture(scope="module")
def tokenizer(tiny_llama):
    return data.load_tokenizer(str(tiny_llama))


def _write(path, names, count=7):
    prompt, answer = names
    rows = [{prompt: f"{n}+1=", answer: str(n + 1), "id": n} for n in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_has_the_same_tokens(tokenizer, tmp_path, shape):
    expected = data.prepare(
        DataConfig(train=_write(tmp_path / "roles.jsonl", SHAPES["roles"])), tokenizer
    )
    names = SHAPES[shape]
    found = data.prepare(DataConfig(train=_write(tmp_path / "set.jsonl", names)), tokenizer)
    np.testing.assert_array_equal(found.tokens, expected.tokens)
    np.testing.assert_array_equal(found.prompt_lengths, expected.prompt_lengths)
    said = f"instruction from {names[0]}, response from {names[1]}" in str(found)
    assert said == (shape != "roles")


def test_alpacas_input_is_read(tokenizer, tmp_path):
    rows = [{"instruction": "Add.", "input": "1, 2", "output": "3"}]
    path = tmp_path / "alpaca.jsonl"
    path.write_text(json.dumps(rows[0]) + "\n")
    examples = data.prepare(DataConfig(train=str(path)), tokenizer)
    assert "### Input:\n1, 2" in tokenizer.decode(examples[0])


def test_text_alone_is_the_answer(tokenizer, tmp_path):
    path = tmp_path / "text.jsonl"
    path.write_text('{"text": "a b c"}\n')
    examples = data.prepare(DataConfig(train=str(path), template="plain"), tokenizer)
    assert "response from text" in str(examples)
    assert "a b c" in tokenizer.decode(examples[0])


def test_fields_of_the_template_stay(tokenizer, tmp_path):
    path = _write(tmp_path / "set.jsonl", ("question", "answer"))
    examples = data.prepare(DataConfig(train=path, template="Q: {question} A:"), tokenizer)
    assert tokenizer.decode(examples[0], skip_special_tokens=True).startswith("Q: 0+1= A:")


def test_configured_fields_are_taken_as_they_are():
    fields = {"instruction": "prompt", "response": "completion"}
    columns = ("prompt", "completion", "question", "answer")
    assert recognize_fields(columns, ("instruction", "response"), fields) == fields


def test_prompts_need_no_answers(tokenizer, tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "1+1="}\n')
    config = DataConfig(train=str(path))
    template = data.make_template("alpaca", tokenizer)
    [prompt] = data.tokenize_prompts(data.load_rows(str(path)), config, template, tokenizer)
    assert "1+1=" in tokenizer.decode(prompt)


def test_an_unknown_shape_is_refused(tokenizer, tmp_path):
    path = _write(tmp_path / "set.jsonl", ("ask", "tell"))
    with pytest.raises(BadInput, match="has no field instruction, response"):
        data.prepare(DataConfig(train=path), tokenizer)
