"""Tokens of prompts and answers, their boundary, and counts of all that is dropped or cut."""

import json

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from balora_jax.config import DataConfig
from balora_jax.data import load_tokenizer, prepare, require_vocabulary
from balora_jax.errors import BadInput

BOS, EOS = 256, 257


@pytest.fixture(scope="module")
def tokenizer():
    """Bytes as tokens, with BOS in front as Llama has it."""
    alphabet = {
        character: index
        for index, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))
    }
    bytewise = Tokenizer(models.BPE(vocab={**alphabet, "<s>": BOS, "</s>": EOS}, merges=[]))
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytewise.decoder = decoders.ByteLevel()
    bytewise.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", BOS)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bytewise, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )


@pytest.fixture
def prepared(tmp_path, tokenizer):
    """A function from rows to examples, by the template `{instruction}=`."""

    def make(rows, **options):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        fields = {"instruction": "q", "response": "a"}
        options = {"template": "{instruction}=", "fields": fields, "max_length": 8, **options}
        return prepare(DataConfig(train=str(path), **options), tokenizer)

    return make


def test_example_is_bos_prompt_answer_eos(prepared, tokenizer):
    examples = prepared([{"q": "1+1", "a": 2}])
    tokens, prompt = examples[0], int(examples.prompt_lengths[0])
    assert tokenizer.decode(tokens) == "<s>1+1=2</s>"
    assert (prompt, len(tokens)) == (5, 7)
    assert tokens.dtype == np.int32


def test_chat_template_writes_its_own_bos(prepared, tokenizer, monkeypatch):
    monkeypatch.setattr(
        tokenizer, "chat_template", "<s>{% for m in messages %}{{ m.content }}{% endfor %}="
    )
    tokens = prepared([{"q": "1", "a": "2"}], template="chat")[0]
    assert tokenizer.decode(tokens) == "<s>1=2</s>"


def test_other_special_tokens_of_the_tokenizer_are_left_out(prepared, tokenizer, monkeypatch):
    both = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", BOS), ("</s>", EOS)]
    )
    before = tokenizer.backend_tokenizer.post_processor
    try:
        tokenizer.backend_tokenizer.post_processor = both
        tokens = prepared([{"q": "1", "a": "2"}])[0]
    finally:
        tokenizer.backend_tokenizer.post_processor = before
    assert tokenizer.decode(tokens) == "<s>1=2</s>"


def test_long_answers_lose_their_end(prepared, tokenizer):
    examples = prepared(
        [{"q": "1", "a": "2345"}, {"q": "1", "a": "23456"}, {"q": "1", "a": "234567"}]
    )
    decoded = [tokenizer.decode(examples[index]) for index in range(3)]
    # The second answer fits by itself, its EOS does not.
    assert decoded == ["<s>1=2345</s>", "<s>1=23456", "<s>1=23456"]
    assert (len(examples), examples.truncated) == (3, 2)
    assert examples.counted_tokens == 5 + 5 + 5


def test_fields_within_fields(prepared, tokenizer):
    rows = [
        {"task": {"q": "1"}, "instances": [{"a": "2"}, {"a": "3"}], "x.y": "no path"},
        {"task": {"q": "4"}, "instances": [{"a": 5}], "x.y": "7"},
    ]
    fields = {"instruction": "task.q", "response": "instances.0.a"}
    examples = prepared(rows, fields=fields)
    assert [tokenizer.decode(examples[i]) for i in (0, 1)] == ["<s>1=2</s>", "<s>4=5</s>"]
    whole = prepared(rows, fields={"instruction": "task.q", "response": "x.y"}, max_length=20)
    assert tokenizer.decode(whole[1]) == "<s>4=7</s>"


@pytest.mark.parametrize(
    ("path", "match"),
    [
        ("instances.1.a", "line 2 has no field instances.1.a; it has: q, instances"),
        ("instances.a", "line 1 has no field instances.a"),
        ("instances.0.a.b", "line 1 has no field instances.0.a.b"),
        ("instances.0", "line 1: instances.0 is a dict; accepted: text or a number"),
        ("other.a", "has no field other.a"),
        ("instances.-1.a", "line 1 has no field instances.-1.a"),
    ],
)
def test_paths_that_lead_nowhere(prepared, path, match):
    rows = [{"q": "1", "instances": [{"a": "2"}] * count} for count in (2, 1)]
    with pytest.raises(BadInput, match=match):
        prepared(rows, fields={"instruction": "q", "response": path})


def test_a_bos_token_that_is_there_twice_is_counted(prepared):
    """The template writes it, and the tokenizer adds it to a text."""
    once = prepared([{"q": "1", "a": "2"}])
    assert once.doubled_start == 0
    twice = prepared([{"q": "1", "a": "2"}] * 3, template="<s>{instruction}=")
    assert twice.doubled_start == 3 and ", 3 begin with the BOS token twice;" in str(twice)


def test_every_row_is_counted_once(prepared):
    rows = [
        {"q": "1", "a": "2"},
        {"q": "1", "a": None},
        {"q": "1", "a": " \n"},
        {"q": "1" * 5, "a": "23"},  # one token of the answer is left
        {"q": "1" * 6, "a": "2"},  # none is
        {"q": "1" * 9, "a": "2"},
    ]
    examples = prepared(rows)
    assert (len(examples), examples.truncated) == (2, 1)
    assert (examples.dropped_empty, examples.dropped_long) == (2, 2)
    assert examples.rows.tolist() == [0, 3]
    assert (len(examples.tokens), examples.counted_tokens) == (5 + 8, 2 + 1)
    assert str(examples) == (
        "2 of 6 rows used, 1 answers truncated, 2 dropped without an answer, "
        "2 dropped for a prompt that fills max_length; 13 tokens, the loss counts 3"
    )


def test_more_rows_than_a_chunk_stay_in_order(prepared, tokenizer):
    examples = prepared([{"q": str(index), "a": "x" if index % 3 else ""} for index in range(2500)])
    kept = [index for index in range(2500) if index % 3]
    assert len(examples) == len(kept)
    assert all(
        tokenizer.decode(examples[i]) == f"<s>{kept[i]}=x</s>" for i in (0, 666, 667, len(kept) - 1)
    )


def test_limit_and_evaluation_rows(tmp_path, tokenizer):
    for name in ("train", "eval"):
        rows = [{"instruction": f"{name}{index}", "response": "x"} for index in range(5)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    paths = {name: str(tmp_path / f"{name}.jsonl") for name in ("train", "eval")}
    config = DataConfig(**paths, template="{instruction}", limit=3, eval_limit=2)
    train, held_out = prepare(config, tokenizer), prepare(config, tokenizer, "eval")
    assert (len(train), len(held_out)) == (3, 2)
    assert tokenizer.decode(held_out[1]) == "<s>eval1x</s>"


def test_plain_text_counts_every_token_after_the_first(prepared, tokenizer):
    examples = prepared([{"a": "123"}], template="plain", fields={"response": "a"})
    tokens, prompt = examples[0], int(examples.prompt_lengths[0])
    assert (tokenizer.decode(tokens), prompt) == ("<s>123</s>", 1)
    assert examples.counted_tokens == 4


def test_input_may_be_left_out_of_a_row(prepared, tokenizer):
    fields = {"instruction": "q", "input": "i", "response": "a"}
    examples = prepared(
        [{"q": "1", "i": "+", "a": "2"}, {"q": "1", "a": "2"}],
        fields=fields,
        template="{q}{input}=",
    )
    assert [tokenizer.decode(examples[index]) for index in (0, 1)] == [
        "<s>1+=2</s>",
        "<s>1=2</s>",
    ]


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (
            [{"q": "1", "b": "2"}],
            {},
            r"rows\.jsonl has no field a \(data\.fields, data\.template\); it has: q, b",
        ),
        (
            [{"q": "1", "a": "2"}],
            {"template": "{r}"},
            r"rows\.jsonl has no field r .*; it has: q, a",
        ),
        ([{"q": "1", "a": "2"}], {"template": "{q.__class__}"}, r"has no field q\.__class__"),
        ([{"q": "1", "a": "2"}, {"q": "1"}], {}, r"rows\.jsonl, line 2 has no field a; it has: q"),
        (
            [{"q": "1", "a": ["2"]}],
            {},
            r"rows\.jsonl, line 1: a is a list; accepted: text or a number",
        ),
        (
            [{"q": "1", "a": "2"}],
            {"fields": {"answer": "a"}},
            "data.fields has answer; accepted: instruction",
        ),
        ([{"q": "1", "a": ""}], {}, r"none of the 1 rows of .*rows\.jsonl has an answer"),
        (
            [{"q": "123456", "a": "2"}, {"q": "1234567", "a": "2"}],
            {},
            "at least 8 tokens long and data.max_length is 8",
        ),
    ],
)
def test_says_what_is_wrong(prepared, rows, options, message):
    with pytest.raises(BadInput, match=message):
        prepared(rows, **options)


def test_tokens_beyond_the_models_embeddings_are_refused(prepared):
    examples = prepared([{"q": "1", "a": "2"}])
    require_vocabulary(258, examples)
    with pytest.raises(BadInput, match="makes token 257 but the model has 257 embeddings"):
        require_vocabulary(257, examples)


@pytest.mark.parametrize("name", ["smollm2", "stories260k"])
def test_real_tokenizers_on_real_rows(real_model, shared, name):
    tokenizer = load_tokenizer(str(real_model(name)))
    path = shared / "data/gsm8k/train.jsonl"
    fields = {"instruction": "question", "response": "answer"}
    config = DataConfig(train=str(path), fields=fields, max_length=512, limit=20)
    examples = prepare(config, tokenizer)
    with path.open() as lines:
        row = json.loads(next(lines))
    tokens, prompt = examples[0], int(examples.prompt_lengths[0])
    assert tokenizer.decode(tokens[:prompt]).endswith(
        f"### Instruction:\n{row['question']}\n\n### Response:"
    )
    assert tokenizer.decode(tokens[prompt:-1]) == row["answer"]
    assert tokens[-1] == tokenizer.eos_token_id


def test_real_chat_template_ends_turns_its_own_way(real_model, shared):
    tokenizer = load_tokenizer(str(real_model("smollm2")))
    fields = {"instruction": "question", "response": "answer"}
    path = str(shared / "data/gsm8k/train.jsonl")
    examples = prepare(DataConfig(train=path, fields=fields, template="chat", limit=1), tokenizer)
    tokens, prompt = examples[0], int(examples.prompt_lengths[0])
    assert tokenizer.decode(tokens[:prompt]).startswith("<|im_start|>system\n")
    assert tokenizer.decode(tokens[:prompt]).endswith("<|im_start|>assistant\n")
    assert tokenizer.decode(tokens[-1:]) == "<|im_end|>"
