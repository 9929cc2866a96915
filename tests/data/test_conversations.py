"""Conversations: tokens and masks against transformers' own, for many shapes and templates."""

import json

import numpy as np
import pytest
from transformers import AutoTokenizer

from balora_jax import data
from balora_jax.config import DataConfig
from balora_jax.data.conversations import read_conversations, tokenize_conversation
from balora_jax.errors import BadInput

# With the marks of what the assistant writes; without them they are the same templates.
CHATML = (
    "{% for m in messages %}<s>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}</s>{% endgeneration %}"
    "{% else %}{{ m['content'] }}</s>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)
INST = (
    "<s>{% for m in messages %}{% if m['role'] == 'assistant' %}"
    "{% generation %}{{ m['content'] }}</s>{% endgeneration %}"
    "{% else %}[INST] {{ m['content'] }} [/INST]{% endif %}{% endfor %}"
)
TEMPLATES = {"chatml": CHATML, "inst": INST}
STRICT = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{{ m['content'] }}</s>{% endfor %}"
)
# As thinking models do: what was thought is left out of earlier turns.
FORGETS = (
    "{% for m in messages %}{{ m['role'] }}: {% if loop.last %}{{ m['content'] }}"
    "{% else %}{{ m['content'].split('|')[-1] }}{% endif %}</s>{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def _turns(*pairs):
    return [{"role": role, "content": content} for role, content in pairs]


SHAPES = {
    "one question": _turns(("user", "1+1?"), ("assistant", "2")),
    "a system prompt": _turns(("system", "Be brief."), ("user", "a"), ("assistant", "b")),
    "two rounds": _turns(*[("user", "a"), ("assistant", "b c")] * 2),
    "a hundred turns": _turns(*[("user", "q"), ("assistant", "an answer")] * 50),
    "the user last": _turns(("user", "a"), ("assistant", "b"), ("user", "c")),
    "an empty answer": _turns(("user", "a"), ("assistant", "")),
    "an empty question": _turns(("user", ""), ("assistant", "b")),
    "lines": _turns(("user", "a\n\nb"), ("assistant", "\nc\n")),
    "letters of others": _turns(("user", "Grüße, 世界 🙂"), ("assistant", "çа́")),
    "blanks": _turns(("user", "  a  "), ("assistant", "  b  ")),
    "its own prompt": _turns(("user", "assistant\n"), ("assistant", "user\n")),
    "a long answer": _turns(("user", "a"), ("assistant", "b " * 500)),
    "a tool": _turns(("user", "a"), ("assistant", "call"), ("tool", "5"), ("assistant", "five")),
    "two answers": _turns(("user", "a"), ("assistant", "b"), ("assistant", "c")),
    "a developer": _turns(("developer", "x"), ("user", "a"), ("assistant", "b")),
    "a system prompt alone": _turns(("system", "Be brief.")),
    "words of many letters": _turns(("user", "a" * 300), ("assistant", "b" * 300)),
    "every turn empty": _turns(("system", ""), ("user", ""), ("assistant", ""), ("user", "")),
    "marks of templates": _turns(("user", "{{ a }} {% b %}"), ("assistant", "{# c #} {{ d }}")),
    "right to left, and joined emoji": _turns(("user", "שלום"), ("assistant", "مرحبا 👩‍👩‍👧")),
    "two tools": _turns(("user", "a"), *[("assistant", "call"), ("tool", "5")] * 2),
}


def _without_marks(template):
    for mark in ("{% generation %}", "{% endgeneration %}"):
        template = template.replace(mark, "")
    return template


@pytest.fixture
def tokenizer(tiny_llama):
    return AutoTokenizer.from_pretrained(tiny_llama)


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("shape", SHAPES)
def test_tokens_and_mask_are_those_of_transformers(tokenizer, name, shape):
    messages = SHAPES[shape]
    tokenizer.chat_template = TEMPLATES[name]
    expected = tokenizer.apply_chat_template(
        messages, return_dict=True, return_assistant_tokens_mask=True
    )
    tokenizer.chat_template = _without_marks(TEMPLATES[name])
    found = tokenize_conversation(tokenizer, messages, "all")
    np.testing.assert_array_equal(found.tokens, expected["input_ids"])
    np.testing.assert_array_equal(found.counted, np.array(expected["assistant_masks"], bool))


def test_the_last_turn_alone(tokenizer):
    tokenizer.chat_template = _without_marks(CHATML)
    messages = SHAPES["two rounds"]
    whole = tokenize_conversation(tokenizer, messages, "all")
    last = tokenize_conversation(tokenizer, messages, "last")
    assert tokenizer.decode(last.tokens[last.counted]) == "b c</s>"
    assert whole.counted.sum() == 2 * last.counted.sum()


def test_a_template_that_forgets_can_count_the_last_turn(tokenizer):
    tokenizer.chat_template = FORGETS
    messages = _turns(("user", "a"), ("assistant", "hm|b"), ("user", "c"), ("assistant", "hm|d"))
    with pytest.raises(BadInput, match=r"turn 2 in another way .*accepted: data\.loss_on last"):
        tokenize_conversation(tokenizer, messages, "all")
    last = tokenize_conversation(tokenizer, messages, "last")
    assert tokenizer.decode(last.tokens[last.counted]) == "hm|d</s>"


def _write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


OPENAI = [{"messages": SHAPES[shape]} for shape in ("one question", "two rounds")]
SHAREGPT = [
    {
        "conversations": [
            {"from": {"user": "human", "assistant": "gpt"}[turn["role"]], "value": turn["content"]}
            for turn in row["messages"]
        ]
    }
    for row in OPENAI
]
PARTS = [
    {
        "messages": [
            {"role": turn["role"], "content": [{"type": "text", "text": turn["content"]}]}
            for turn in row["messages"]
        ]
    }
    for row in OPENAI
]


@pytest.mark.parametrize("rows", [OPENAI, SHAREGPT, PARTS], ids=["openai", "sharegpt", "parts"])
def test_every_form_has_the_same_examples(tokenizer, tmp_path, rows):
    tokenizer.chat_template = _without_marks(CHATML)
    config = DataConfig(train=str(_write(tmp_path / "set.jsonl", rows)), template="chat")
    examples = data.prepare(config, tokenizer)
    assert len(examples) == 2 and examples.counted_tokens == 2 + 2 * 4
    assert f"turns from {next(iter(rows[0]))}" in str(examples)
    batch = data.collate(examples, [0, 1], (128,))
    for row, example in enumerate(examples[index] for index in range(2)):
        counted = batch.targets[row][batch.mask[row]]
        answers = "2</s>" if row == 0 else "b c</s>" * 2
        assert tokenizer.decode(counted) == answers
        np.testing.assert_array_equal(batch.input_ids[row, : len(example)], example)
    prompt, answer = examples.pair(1)
    assert tokenizer.decode(answer) == "b c</s>"
    assert tokenizer.decode(prompt).endswith("assistant\n")


def test_one_round_is_a_pair_of_prompt_and_answer(tokenizer, tmp_path):
    """The same examples as of instruction and response."""
    tokenizer.chat_template = _without_marks(CHATML)
    pairs = _write(tmp_path / "pairs.jsonl", [{"instruction": "1+1?", "response": "2"}])
    turns = _write(tmp_path / "turns.jsonl", [OPENAI[0]])
    found = [
        data.prepare(DataConfig(train=str(path), template="chat"), tokenizer)
        for path in (pairs, turns)
    ]
    batches = [data.collate(examples, [0], (64,)) for examples in found]
    counted = [batch.targets[batch.mask] for batch in batches]
    np.testing.assert_array_equal(*counted)
    lengths = [int(batch.attention_mask.sum()) for batch in batches]
    assert lengths[0] == lengths[1]


def test_prompts_to_answer(tokenizer, tmp_path):
    tokenizer.chat_template = _without_marks(CHATML)
    config = DataConfig(train="unused", template="chat")
    rows = data.load_rows(str(_write(tmp_path / "set.jsonl", OPENAI)))
    template = data.make_template("chat", tokenizer)
    prompts = data.tokenize_prompts(rows, config, template, tokenizer)
    assert tokenizer.decode(prompts[1]).endswith("<s>user\na</s><s>assistant\n")


def test_a_greeting_is_not_counted(tokenizer):
    """No prompt leads to the first turn."""
    tokenizer.chat_template = _without_marks(CHATML)
    messages = _turns(("assistant", "hello"), ("user", "a"), ("assistant", "b"))
    found = tokenize_conversation(tokenizer, messages, "all")
    assert tokenizer.decode(found.tokens[found.counted]) == "b</s>"


def test_long_and_silent_conversations_are_counted(tokenizer, tmp_path):
    tokenizer.chat_template = _without_marks(CHATML)
    silent = {"messages": _turns(("user", "a"))}
    long = {"messages": _turns(("user", "a" * 200), ("assistant", "b"))}
    path = _write(tmp_path / "set.jsonl", [*OPENAI, silent, long])
    examples = data.prepare(DataConfig(train=str(path), template="chat", max_length=100), tokenizer)
    assert (len(examples), examples.dropped_empty, examples.dropped_long) == (2, 1, 1)


BAD = {
    "no list": ({"messages": "hi"}, "line 1: messages is 'hi'; accepted: a list"),
    "no turns": ({"messages": []}, "accepted: a list of 1 to"),
    "no turn": ({"messages": ["hi"]}, "turn 1 is 'hi'; accepted: role and content"),
    "a role": ({"messages": [{"role": "robot", "content": "a"}]}, "has the role 'robot'; accepted"),
    "no role": ({"messages": [{"content": "a"}]}, "has the role None; accepted"),
    "no text": ({"messages": [{"role": "user", "content": 3}]}, "turn 1 has no text in content"),
    "half": ({"messages": [{"role": "user", "content": "\ud83d"}]}, "half of a character"),
    "nobody answers": ({"messages": _turns(("user", "a"))}, "has an answer within data.max_length"),
}


@pytest.mark.parametrize(("row", "match"), BAD.values(), ids=BAD)
def test_a_conversation_is_refused(tokenizer, tmp_path, row, match):
    tokenizer.chat_template = _without_marks(CHATML)
    path = tmp_path / "set.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(BadInput, match=match):
        data.prepare(DataConfig(train=str(path), template="chat"), tokenizer)


def test_turns_out_of_order_are_named(tokenizer, tmp_path):
    tokenizer.chat_template = STRICT
    good = _turns(("user", "a"), ("assistant", "b"))
    bad = _turns(("assistant", "b"), ("user", "a"))
    path = _write(tmp_path / "set.jsonl", [{"messages": good}, {"messages": bad}])
    with pytest.raises(BadInput, match=r"line 2: .*roles must alternate"):
        data.prepare(DataConfig(train=str(path), template="chat"), tokenizer)


def test_conversations_need_the_chat_template(tokenizer, tmp_path):
    path = _write(tmp_path / "set.jsonl", OPENAI)
    with pytest.raises(BadInput, match=r"conversations \(messages\).*accepted: data.template"):
        data.prepare(DataConfig(train=str(path)), tokenizer)


def test_other_fields_of_a_turn_stay(tmp_path):
    call = {"role": "assistant", "content": None, "tool_calls": [{"name": "f"}]}
    path = _write(tmp_path / "set.jsonl", [{"messages": [*_turns(("user", "a")), call]}])
    [messages] = read_conversations(data.load_rows(str(path)), "messages")
    assert messages[1] == {"role": "assistant", "content": "", "tool_calls": [{"name": "f"}]}
