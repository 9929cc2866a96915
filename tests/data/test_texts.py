"""GLUE's table, tokenized texts and their labels, and one message for every wrong label."""

import json

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from balora_jax.data import TASKS, TextTask, encode, find_task, load_rows, load_tokenizer
from balora_jax.data.labels import read_labels
from balora_jax.errors import BadInput


@pytest.fixture(scope="module")
def tokenizer():
    """Words a to e, joined as BERT joins pairs."""
    words = {word: index for index, word in enumerate(["[PAD]", "[CLS]", "[SEP]", *"abcde"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[PAD]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
    )
    names = ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", model_input_names=names
    )


@pytest.fixture
def rows(tmp_path):
    def make(*contents):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in contents))
        return load_rows(str(path))

    return make


def _pair(label, first="a b", second="c"):
    return {"sentence1": first, "sentence2": second, "label": label}


def test_all_nine_tasks():
    assert set(TASKS) == {"cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli"}
    assert {name: task.outputs for name, task in TASKS.items() if task.outputs != 2} == {
        "mnli": 3,
        "stsb": 1,
    }
    assert TASKS["mnli"].validation == ("validation_matched", "validation_mismatched")
    assert all(task.submission and task.metrics for task in TASKS.values())


def test_pairs_are_joined_as_the_tokenizer_joins_them(tokenizer, rows):
    texts = encode(rows(_pair(1), _pair(0, "d", "e")), find_task("rte"), tokenizer, max_length=9)
    tokens = texts[0]
    token_type_ids = texts.token_type_ids[: len(tokens)]
    assert tokenizer.convert_ids_to_tokens(tokens) == ["[CLS]", "a", "b", "[SEP]", "c", "[SEP]"]
    assert token_type_ids.tolist() == [0, 0, 0, 0, 1, 1]
    assert (len(texts), texts.lengths.tolist(), texts.labels.tolist()) == (2, [6, 5], [1, 0])
    assert (texts.labels.dtype, texts.truncated) == (np.int32, 0)


def test_no_token_types_where_the_tokenizer_marks_none(tokenizer, rows, monkeypatch):
    monkeypatch.setattr(tokenizer, "model_input_names", ["input_ids", "attention_mask"])
    texts = encode(rows(_pair(1)), find_task("rte"), tokenizer, max_length=9)
    assert texts.token_type_ids.tolist() == [0] * 6


def test_long_pairs_are_cut_and_counted(tokenizer, rows):
    contents = rows(_pair(1, "a b c d e", "a"), _pair(1, "a", "b"))
    texts = encode(contents, find_task("rte"), tokenizer, max_length=6)
    assert tokenizer.convert_ids_to_tokens(texts[0]) == [
        "[CLS]",
        "a",
        "b",
        "[SEP]",
        "a",
        "[SEP]",
    ]
    assert texts.truncated == 1
    assert str(texts) == (
        "2 examples, 1 truncated, all of class 1; 11 tokens, at most 6 an example"
    )


def test_scores_are_floats_between_the_tasks_ends(tokenizer, rows):
    texts = encode(rows(_pair(0), _pair(5), _pair(3.8)), find_task("stsb"), tokenizer, max_length=9)
    assert texts.labels.dtype == np.float32
    assert texts.labels == pytest.approx([0, 5, 3.8])


def test_test_splits_have_no_labels(tokenizer, rows):
    texts = encode(rows(_pair(-1)), find_task("rte"), tokenizer, max_length=9, labeled=False)
    assert texts.labels is None


@pytest.mark.parametrize("label", [2, -1, "x", 0.5, None, True, [1], "²", "9" * 5000])
def test_wrong_classes_are_reported_with_their_line(tokenizer, rows, label):
    message = (
        r"rows\.jsonl, line 2: label is .*; rte accepts: 0 \(entailment\), 1 \(not_entailment\)"
    )
    with pytest.raises(BadInput, match=message):
        encode(rows(_pair(1), _pair(label)), find_task("rte"), tokenizer, max_length=9)


@pytest.mark.parametrize("label", [5.1, -1, "x", None, True, "nan"])
def test_wrong_scores_are_reported_with_their_line(tokenizer, rows, label):
    with pytest.raises(
        BadInput, match=r"rows\.jsonl, line 1: label is .*; stsb accepts: a number from 0 to 5"
    ):
        encode(rows(_pair(label)), find_task("stsb"), tokenizer, max_length=9)


def test_labels_of_a_csv_file_are_numbers_in_text(tokenizer, tmp_path):
    (tmp_path / "a.csv").write_text("sentence,label\na b,1\nc,0\n")
    texts = encode(load_rows(str(tmp_path / "a.csv")), find_task("sst2"), tokenizer, max_length=9)
    assert texts.labels.tolist() == [1, 0]


def test_a_number_that_is_a_classs_name_is_the_name(rows):
    """With names 1 and 2 the label 1 is the first class, as a number and as text."""
    task = TextTask("mine", ("text",), ("1", "2"), ("accuracy",), {})
    assert read_labels(rows({"label": 1}, {"label": "2"}, {"label": " 1 "}), task).tolist() == [
        0,
        1,
        0,
    ]
    with pytest.raises(BadInput, match="line 1: label is 0; mine accepts: 1, 2"):
        read_labels(rows({"label": 0}), task)


def test_the_line_of_a_csv_file_is_reported(tmp_path):
    (tmp_path / "a.csv").write_text('sentence,label\n"a\nb",1\n\nc,0\nd,2\n')
    with pytest.raises(BadInput, match=r"a\.csv, line 6: label is '2'"):
        read_labels(load_rows(str(tmp_path / "a.csv")), find_task("sst2"))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"sentence1": "a", "label": 1},
            r"rows\.jsonl has no field sentence2; it has: sentence1, label",
        ),
        (
            {"sentence1": "a", "sentence2": "b"},
            r"rows\.jsonl has no field label; it has: sentence1, sentence2",
        ),
        (_pair(1, second=None), r"rows\.jsonl, line 1: sentence2 is None; accepted: text"),
    ],
)
def test_says_what_a_row_lacks(tokenizer, rows, row, message):
    with pytest.raises(BadInput, match=message):
        encode(rows(row), find_task("rte"), tokenizer, max_length=9)


def test_says_when_there_is_no_pad_token(rows):
    words = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    )
    with pytest.raises(BadInput, match="the tokenizer has no pad token"):
        encode(rows(_pair(1)), find_task("rte"), words, max_length=9)


def test_says_which_tasks_there_are():
    with pytest.raises(
        BadInput, match="there is no task 'sst-2'; accepted: cola, mnli, mrpc, qnli, qqp, rte, sst2"
    ):
        find_task("sst-2")


@pytest.mark.parametrize("name", ["cola", "rte", "stsb", "sst2"])
def test_real_rows_with_a_real_tokenizer(real_model, shared, name):
    tokenizer = load_tokenizer(str(real_model("minilm")))
    rows = load_rows(str(shared / f"data/glue/{name}/validation.jsonl"), limit=50)
    task = find_task(name)
    texts = encode(rows, task, tokenizer, max_length=64)
    assert len(texts) == 50
    shown = tokenizer.decode(texts[0])
    assert shown.startswith("[CLS]") and shown.count("[SEP]") == len(task.fields)
    assert texts.token_type_ids[: texts.starts[1]].max() == len(task.fields) - 1
