"""Data files that a scrape of the web may hold: read as they are, or refused in one sentence."""

import csv
import gzip
import json
import os
import re

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from balora_jax.config import DataConfig
from balora_jax.data import (
    Examples,
    TextTask,
    encode,
    load_rows,
    prepare,
    require_vocabulary,
    text_files,
    text_task,
)
from balora_jax.errors import BadInput

LINE = b'{"question": "1+1=", "answer": "2"}\n'
PAIR = {"question": "1+1=", "answer": "2"}
UTF8 = "accepted: text that is saved as UTF-8"
OBJECT = r'accepted: \{"field": value, ...\}'


def _sentence(error):
    sentence = str(error.value)
    assert "\n" not in sentence and sentence.isprintable()
    assert "accepted: " in sentence or "accepts: " in sentence
    assert len(sentence) < 1500
    return sentence


def _refusal(path, content=None):
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadInput) as error:
        list(load_rows(str(path)))
    return _sentence(error)


# File name, content, and the sentence.
BROKEN_FILES = {
    "nothing": ("a.jsonl", b"", "a.jsonl has no rows"),
    "blank lines alone": ("a.jsonl", b"\n \n\t\n", "a.jsonl has no rows"),
    "a byte order mark alone": ("a.jsonl", b"\xef\xbb\xbf", "a.jsonl has no rows"),
    "an empty list": ("a.json", b" [ ] ", "a.json has no rows"),
    "nothing packed": ("a.jsonl.gz", gzip.compress(b""), "a.jsonl.gz has no rows"),
    "zero bytes": ("a.jsonl", bytes(9), "a.jsonl, line 1, column 1 is not JSON"),
    "a raw zero byte in text": (
        "a.jsonl", LINE + b'{"a": "x\0"}\n', "line 2, column 9 is not JSON: Invalid control"
    ),
    "UTF-16 with a mark": ("a.jsonl", LINE.decode().encode("utf-16"), f"line 1: .*byte 1.*{UTF8}"),
    "UTF-16 without a mark": (
        "a.jsonl", LINE.decode().encode("utf-16-le"), "line 1, column 2 is not JSON"
    ),
    "UTF-32": ("a.jsonl", LINE.decode().encode("utf-32"), f"UTF-8 .line 1: .*{UTF8}"),
    "Latin-1 in a late line": (
        "a.jsonl", LINE * 9000 + b'{"a": "gr\xf6\xdfe"}', f"line 9001: .* at byte 10.*{UTF8}"
    ),
    "surrogates in UTF-8": ("a.jsonl", b'{"a": "\xed\xa0\x80"}', f"line 1: .*{UTF8}"),
    "a number of 5,000 digits": (
        "a.jsonl", LINE + b'{"a": ' + b"9" * 5000 + b"}", "line 2 has a number of more than 4,300"
    ),
    "a number of 5,000 digits in a list": (
        "a.json", b'\n[{"a": ' + b"9" * 5000 + b"}]", "line 2 has a number of more than 4,300"
    ),
    "100,000 brackets": (
        "a.jsonl", b"[" * 100_000, "line 1 has too many brackets inside each other; accepted"
    ),
    "100,000 objects": (
        "a.jsonl", LINE + b'{"a":' * 100_000, "line 2 has too many brackets inside each other"
    ),
    "100,000 lists in a list": ("a.json", b"[" * 100_000, "line 1 has too many brackets"),
    "a repeated field": (
        "a.jsonl", LINE + b'{"a": 1, "b": 2, "a": 3}', "line 2: .* field 'a' twice; accepted: each"
    ),
    "a repeated field of surrogates": (
        "a.jsonl", b'{"\\ud800\\n": 1, "\\ud800\\n": 3}', r"field '\\ud800\\n' twice"
    ),
    "a repeated long field": (
        "a.jsonl", b'{"%s": 1, "%s": 3}' % (b"x" * 9999, b"x" * 9999), r"xx\.\.\.xx.*' twice"
    ),
    "a row of a list": ("a.jsonl", LINE + b"[1]\n", f"line 2 is not an object but list; {OBJECT}"),
    "a row of text": ("a.jsonl", b'"text"', f"line 1 is not an object but str; {OBJECT}"),
    "a row of a number": ("a.jsonl", b"7", f"line 1 is not an object but int; {OBJECT}"),
    "a row of nan": ("a.jsonl", b"NaN", f"line 1 is not an object but float; {OBJECT}"),
    "a row of null": ("a.jsonl", b"null", f"line 1 is not an object but NoneType; {OBJECT}"),
    "an item of null": ("a.json", b"[{}, null]", f"item 2 is not an object but NoneType; {OBJECT}"),
    "a list cut off": ("a.json", b'[{"a": 1},\n{"a"', "line 2, column 5 is not JSON"),
    "text after the list": ("a.json", b"[{}]\nx", "line 2, column 1 is not JSON: Extra data"),
    "two objects in a line": ("a.jsonl", LINE.strip() * 2, "column 36 is not JSON: Extra data"),
    "a list in a file of lines": ("a.jsonl", b"[\n{}\n]", "line 1, column 2 is not JSON"),
    "an object over several lines": ("a.jsonl", b'{\n"a": 1\n}', "line 1, column 2 is not JSON"),
    "single quotes": ("a.jsonl", b"{'a': 1}", "line 1, column 2 is not JSON"),
    "a page of HTML": ("a.json", b"<!DOCTYPE html>\n<html>", "line 1, column 1 is not JSON"),
    "a Git LFS pointer": ("a.jsonl", b"version https://git-lfs\n", "column 1 is not JSON"),
    "gzip cut in the middle": (
        "a.jsonl.gz", gzip.compress(os.urandom(999))[:500], "gzip|UTF-8"
    ),
    "gzip cut in its text": (
        "a.jsonl.gz", gzip.compress(LINE * 99)[:40], "not a whole gzip file: .*; accepted: the file"
    ),
    "gzip of a changed byte": (
        "a.jsonl.gz", gzip.compress(LINE * 9)[:-6] + b"\0" + gzip.compress(LINE * 9)[-5:],
        "not a whole gzip file: CRC",
    ),
    "gzip followed by text": (
        "a.jsonl.gz", gzip.compress(LINE) + b"text", "is not a whole gzip file: Not a gzipped"
    ),
    "text named gzip": ("a.json.gz", LINE, "is not a whole gzip file: Not a gzipped file"),
    "gzip named jsonl": ("a.jsonl", gzip.compress(LINE), f"not text in UTF-8 .line 1.*{UTF8}"),
    "gzip twice": ("a.json.gz", gzip.compress(gzip.compress(LINE)), f"not text in UTF-8.*{UTF8}"),
    "an empty csv": ("a.csv", b"", "a.csv is empty; accepted: a csv file whose first line"),
    "a csv of blank lines": ("a.csv", b"\n\r\n", "a.csv is empty; accepted"),
    "a csv of a first line": ("a.csv", b"question,answer\n", "a.csv has no rows; accepted"),
    "a csv row too long": (
        "a.csv", b"a,b\n1,2\n\n3,4,5\n", "line 4 has 3 cells; accepted: 2, as in the first line"
    ),
    "a csv row too short": ("a.csv", b"a,b\n1,2\n3\n", "line 3 has 1 cells; accepted: 2"),
    "csv rows all too long": ("a.csv", b"a,b\n1,2,3\n4,5,6\n", "line 2 has 3 cells; accepted: 2"),
    "a csv quote never closed": (
        "a.csv", b'a,b\n1,2\n3,"4\n5,6\n', "line 3 is not CSV: unexpected end of data; accepted"
    ),
    "text after a csv quote": ("a.csv", b'a,b\n1,"2"x\n', "line 2 is not CSV: ',' expected after"),
    "a csv field twice": ("a.csv", b"a,b,a\n1,2,3\n", "names the field a twice; accepted"),
    "csv fields without names": ("a.csv", b",,b\n1,2,3\n", "names the field  twice; accepted"),
    "zero bytes in csv": ("a.csv", b"a,b\n1,\0\n", "line 2 has a zero byte; accepted: a csv file"),
    "csv in UTF-16": ("a.csv", "a,b\n1,2".encode("utf-16"), f"not text in UTF-8.*{UTF8}"),
    "csv in UTF-16 without a mark": (
        "a.csv", "a,b\n1,2".encode("utf-16-le"), "line 1 has a zero byte; accepted"
    ),
    "csv in Latin-1": ("a.csv", b"a,b\n1,\xf6\n", f"UTF-8 .line 2: .* byte 3.*{UTF8}"),
    "a picture named csv": ("a.csv", b"\x89PNG\r\n\x1a\n" + bytes(99), f"UTF-8 .line 1.*{UTF8}"),
    "a parquet file of text": ("a.parquet", LINE, "cannot be loaded: .*; accepted: a whole parq"),
    "an empty parquet file": ("a.parquet", b"", "cannot be loaded: .*; accepted: a whole parquet"),
    "a parquet file of zeros": ("a.parquet", bytes(99), "cannot be loaded: .*; accepted: a whole"),
    "an unknown kind": ("a.xlsx", LINE, "ends in none of the known suffixes; accepted: a .jsonl"),
    "a zipped csv": ("a.csv.gz", gzip.compress(b"a\n1"), "none of the known suffixes; accepted"),
    "no suffix": ("rows", LINE, "ends in none of the known suffixes; accepted: a .jsonl"),
    "capitals": ("a.JSONL", LINE, "ends in none of the known suffixes; accepted: a .jsonl"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "content", "message"), BROKEN_FILES.values(), ids=BROKEN_FILES)
def test_broken_files_are_refused(tmp_path, name, content, message):
    sentence = _refusal(tmp_path / name, content)
    assert re.search(message, sentence), sentence
    assert name in sentence


# File name, content, and the answers of its rows.
READ_FILES = {
    "CRLF": ("a.jsonl", LINE.replace(b"\n", b"\r\n") * 2, ["2", "2"]),
    "CR": ("a.jsonl", LINE.replace(b"\n", b"\r") * 2, ["2", "2"]),
    "a mark in front": ("a.jsonl", b"\xef\xbb\xbf" + LINE, ["2"]),
    "no line end": ("a.jsonl", LINE.strip(), ["2"]),
    "a list after blank lines": ("a.json", b"\xef\xbb\xbf\r\n [" + LINE + b"]\n\n", ["2"]),
    "lines that end in U+2028": (
        "a.jsonl", '{"answer": "2\u2028x"}'.encode(), ["2\u2028x"]
    ),
    "an escaped zero byte": ("a.jsonl", b'{"answer": "\\u0000"}', ["\0"]),
    "numbers that are not finite": ("a.jsonl", b'{"x": NaN, "y": -Infinity, "answer": 1}', [1]),
    "gzip of two members": ("a.jsonl.gz", gzip.compress(LINE) * 2, ["2", "2"]),
    "odd names of fields": ("a.jsonl", b'{"\\ud800": 1, "": 2, "a\\n": 3, "answer": 4}', [4]),
    "csv of CRLF": ("a.csv", b"answer,b\r\n2,3\r\n", ["2"]),
    "csv of CR": ("a.csv", b"answer,b\r2,3\r4,5\r", ["2", "4"]),
    "csv with a mark": ("a.csv", b"\xef\xbb\xbfanswer,b\n2,3", ["2"]),
    "csv with blank lines": ("a.csv", b"\n\nanswer,b\n\n2,3\n  \n", ["2"]),
    "csv with a nameless field": ("a.csv", b",answer\n0,2\n1,3\n", ["2", "3"]),
    "csv cells with line breaks": ("a.csv", b'answer,b\n"2\r\n3",x\n', ["2\r\n3"]),
    "csv quotes doubled": ("a.csv", b'answer,b\n"say ""a""",x\n', ['say "a"']),
    "csv quotes inside": ("a.csv", b'answer,b\n5" disk,x\n', ['5" disk']),
    "csv of one field": ("a.csv", b'answer\n2\n""\n', ["2", ""]),
    "csv of 200 kB cells": ("a.csv", b"answer\n" + b"x" * 200_000 + b"\n", ["x" * 200_000]),
}  # fmt: skip


@pytest.mark.parametrize(("name", "content", "answers"), READ_FILES.values(), ids=READ_FILES)
def test_unusual_files_are_read(tmp_path, name, content, answers):
    (tmp_path / name).write_bytes(content)
    rows = load_rows(str(tmp_path / name))
    assert [row["answer"] for row in rows] == answers


def test_the_limit_of_csv_cells_is_left_as_it_was(tmp_path):
    before = csv.field_size_limit()
    _refusal(tmp_path / "a.csv", b'a,b\n"')
    assert csv.field_size_limit() == before


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "zero.jsonl").symlink_to("/dev/zero")
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "loop.jsonl").symlink_to("loop.jsonl")
    (tmp_path / "nothing.jsonl").symlink_to("gone.jsonl")
    accepted = "accepted: a .jsonl, .jsonl.gz, .json, .csv or .parquet file"
    assert "is a folder without data files" in _refusal(tmp_path / "folder.jsonl")
    for name, found in {
        "pipe.jsonl": "is no regular file",
        "zero.jsonl": "is no regular file",
        "loop.jsonl": "cannot be looked up .*symbolic links",
        "nothing.jsonl": "does not exist",
        "zero\0.jsonl": "cannot be looked up .*null byte",
        "x" * 300 + ".jsonl": "cannot be looked up .*too long",
    }.items():
        assert re.search(f"{found}.*; {accepted}", _refusal(tmp_path / name))
    with pytest.raises(BadInput, match=f"cannot be looked up .*{accepted}"):
        load_rows("~no-such-user/a.jsonl")


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.json.gz"])
def test_gzip_files_that_unpack_without_end_are_refused(tmp_path, monkeypatch, name):
    monkeypatch.setattr(text_files, "UNPACKED_FREE", 2**16)
    content = b"[" + b"{},\n" * 10**5 if name == "a.json.gz" else b"{}\n" * 10**6
    sentence = _refusal(tmp_path / name, gzip.compress(content))
    assert re.search("unpacks to more than .* bytes; accepted: .*at most 100 times", sentence)


@pytest.mark.parametrize(("name", "before"), [("a.jsonl", b""), ("a.csv", b'a,b\n1,"')])
def test_lines_without_end_are_refused(tmp_path, monkeypatch, name, before):
    monkeypatch.setattr(text_files, "LONGEST_LINE", 2**16)
    sentence = _refusal(tmp_path / name, before + b"x" * 2**17)
    assert "has a line of more than 65,536 bytes; accepted: shorter lines" in sentence


def test_files_with_holes_are_not_held_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(text_files, "LONGEST_LINE", 2**20)
    with (tmp_path / "a.jsonl").open("wb") as file:
        file.truncate(2**40)
    assert "has a line of more than" in _refusal(tmp_path / "a.jsonl")


def _parquet(path, **columns):
    parquet.write_table(pa.table(columns), path)
    return path


def test_parquet_files_cut_anywhere_are_refused(tmp_path):
    whole = _parquet(tmp_path / "a.parquet", a=["x"] * 9).read_bytes()
    for size in range(0, len(whole), 97):
        assert "accepted: a whole parquet file" in _refusal(tmp_path / "a.parquet", whole[:size])


def test_parquet_files_of_one_value_without_end_are_refused(tmp_path):
    path = _parquet(tmp_path / "a.parquet", a=pa.array([None] * 10**6, pa.null()))
    assert re.search("has 1,000,000 rows; accepted: at most", _refusal(path))


def test_parquet_text_that_is_not_utf8_is_refused(tmp_path):
    offsets = pa.py_buffer(np.array([0, 1, 2], np.int32))
    broken = pa.StringArray.from_buffers(2, offsets, pa.py_buffer(b"x\xff"))
    path = _parquet(tmp_path / "a.parquet", a=broken)
    assert re.search(r"a\.parquet, row [12] cannot be read: .*; accepted: text", _refusal(path))


# The value of a response in JSON, and what is found.
WRONG_VALUES = {
    "a list": (["2"], "a list"),
    "an object": ({"text": "2"}, "a dict"),
    "nan": (float("nan"), "nan"),
    "infinity": (float("-inf"), "-inf"),
}


def _prepare(folder, rows, tokenizer, **options):
    path = folder / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    names = {"instruction": "question", "response": "answer"}
    options = {"template": "{instruction}", "fields": names, "max_length": 8} | options
    return prepare(DataConfig(train=str(path), **options), tokenizer)


@pytest.mark.parametrize(("value", "found"), WRONG_VALUES.values(), ids=WRONG_VALUES)
@pytest.mark.parametrize("field", ["question", "answer"])
def test_wrong_values_of_pairs_are_refused(tmp_path, words, value, found, field):
    with pytest.raises(BadInput, match=rf"line 2: {field} is {found}; accepted: text or") as error:
        _prepare(tmp_path, [PAIR, PAIR | {field: value}], words)
    _sentence(error)


@pytest.mark.parametrize("text", ["a \ud800", "\udfff", "a\ud83d b"])
def test_halves_of_characters_are_refused(tmp_path, words, text):
    with pytest.raises(
        BadInput, match=r"line 2: question has '\\ud.*half of a char.*; acc"
    ) as error:
        _prepare(tmp_path, [PAIR, PAIR | {"question": text}], words)
    _sentence(error)


def test_whole_characters_written_as_two_halves_are_read(tmp_path, words):
    assert len(_prepare(tmp_path, [PAIR | {"question": "\N{GRINNING FACE}"}], words)) == 1


def test_a_field_missing_in_some_rows_is_named(tmp_path, words):
    rows = [PAIR, {"question": "a", **{f"field {number}\n": 0 for number in range(99)}}]
    with pytest.raises(BadInput, match=r"line 2 has no field answer; it has: question.* 88 more"):
        _prepare(tmp_path, rows, words)


@pytest.mark.parametrize("answers", [[""], [None], [" \t"], [None, "", " "]])
def test_sets_without_answers_are_refused(tmp_path, words, answers):
    rows = [PAIR | {"answer": answer} for answer in answers]
    with pytest.raises(BadInput, match=rf"none of the {len(rows)} rows of .* an answer; accepted"):
        _prepare(tmp_path, rows, words)


def test_answers_of_a_megabyte_are_cut(tmp_path, words):
    examples = _prepare(tmp_path, [PAIR | {"answer": "a b " * 250_000}], words)
    assert (len(examples[0]), examples.truncated) == (8, 1)


@pytest.fixture(scope="module")
def words():
    """Words a to e; the special tokens of a pair are three."""
    names = ["[PAD]", "[CLS]", "[SEP]", *"abcde"]
    tokenizer = Tokenizer(
        models.WordLevel({name: index for index, name in enumerate(names)}, unk_token="[PAD]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", eos_token="[SEP]")


def _task(labels=("no", "yes"), **options):
    return TextTask("data.labels", ("text",), labels, ("accuracy",), {}, **options)


def _encode(folder, rows, tokenizer, task, max_length=8, **options):
    path = folder / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return encode(load_rows(str(path)), task, tokenizer, max_length=max_length, **options)


@pytest.mark.parametrize(
    "value", [None, 7, 1.5, True, ["a"], {"a": 1}, float("nan"), [["a" * 99] * 99] * 99]
)
def test_wrong_texts_are_refused(tmp_path, words, value):
    with pytest.raises(BadInput, match=r"line 2: text is .*; accepted: text") as error:
        _encode(tmp_path, [{"text": "a", "label": 0}, {"text": value, "label": 1}], words, _task())
    assert len(_sentence(error)) < 400


@pytest.mark.parametrize(
    "value",
    [2, -1, 1.0, 0.5, True, None, [0], {}, "maybe", "", "1.0", "x" * 10**6, 10**4000,
     float("nan"), float("inf"), "\ud800", "yes\0"],
)  # fmt: skip
def test_wrong_classes_are_refused(tmp_path, words, value):
    rows = [{"text": "a", "label": 0}, {"text": "b", "label": value}]
    message = r"line 2: label is .*; data.labels accepts: 0 \(no\), 1 \(yes\)$"
    with pytest.raises(BadInput, match=message) as error:
        _encode(tmp_path, rows, words, _task())
    assert len(_sentence(error)) < 400


@pytest.mark.parametrize(
    "value", [5.1, -1, True, None, [], {}, "much", "", float("nan"), "inf", 10**4000, "9" * 10**5]
)
def test_wrong_scores_are_refused(tmp_path, words, value):
    rows = [{"text": "a", "label": 0}, {"text": "b", "label": value}]
    message = "line 2: label is .*; data.labels accepts: a number from 0 to 5$"
    with pytest.raises(BadInput, match=message) as error:
        _encode(tmp_path, rows, words, _task((), scores=(0.0, 5.0)))
    assert len(_sentence(error)) < 400


def test_the_classes_of_a_message_are_few(tmp_path, words):
    rows = [{"text": "a", "label": -1}]
    with pytest.raises(BadInput, match=r"accepts: 0, 1, .*, 11, and 988 more$") as error:
        _encode(tmp_path, rows, words, text_task(DataConfig(train="a.jsonl", labels=1000)))
    _sentence(error)


def test_texts_without_tokens_are_refused(tmp_path):
    bare = Tokenizer(models.WordLevel({"a": 0, "[PAD]": 1}, unk_token="[PAD]"))
    bare.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bare, pad_token="[PAD]")
    rows = [{"text": "a", "label": 0}, {"text": " ", "label": 1}]
    with pytest.raises(BadInput, match="line 2: the text of text has no tokens; accepted") as error:
        _encode(tmp_path, rows, tokenizer, _task())
    _sentence(error)


def test_empty_texts_of_special_tokens_are_read(tmp_path, words):
    assert list(_encode(tmp_path, [{"text": "", "label": 0}], words, _task())[0]) == [1, 2]


@pytest.mark.parametrize(("fields", "special"), [(1, 2), (2, 3)])
def test_lengths_without_room_for_text_are_refused(tmp_path, words, fields, special):
    task = TextTask("t", ("text", "other")[:fields], ("no", "yes"), ("accuracy",), {})
    rows = [{"text": "a b c", "other": "a b c", "label": 0}]
    for max_length in range(1, special + 1):
        with pytest.raises(
            BadInput, match=f"data.max_length is {max_length} .*; accepted: at least"
        ) as error:
            _encode(tmp_path, rows, words, task, max_length)
    least = int(_sentence(error).split()[-1])
    examples = _encode(tmp_path, rows, words, task, least)
    assert (examples.longest, examples.truncated) == (least, 1)


def test_texts_of_a_megabyte_are_cut(tmp_path, words):
    examples = _encode(tmp_path, [{"text": "a b " * 250_000, "label": 0}], words, _task())
    assert (len(examples[0]), examples.truncated) == (8, 1)


def test_sets_of_one_class_say_so(tmp_path, words):
    rows = [{"text": "a", "label": 1}] * 3
    assert "all of class 1" in str(_encode(tmp_path, rows, words, _task()))
    rows.append({"text": "a", "label": 0})
    assert "all of class" not in str(_encode(tmp_path, rows, words, _task()))


def _examples(tokens=(0, 1, 2), pad_id=0, **arrays):
    return Examples(np.array(tokens, np.int32), np.array([0, len(tokens)]), pad_id, **arrays)


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        (_examples((0, 3)), "makes token 3 but the model has 3 embeddings"),
        (_examples((0, -1)), "makes token -1; accepted"),
        (_examples(answers=np.array([[3, -1]])), "makes token 3 but the model has 3 embeddings"),
        (_examples(pad_id=3), "pad token has the id 3 but the model has 3 embeddings"),
        (_examples(pad_id=-1), "pad token has the id -1 but the model has 3 embeddings"),
        (_examples(pad_id=None), "pad token has the id None but the model has 3 embeddings"),
    ],
)
def test_tokens_without_embeddings_are_refused(examples, message):
    with pytest.raises(BadInput, match=message) as error:
        require_vocabulary(3, _examples(), examples)
    _sentence(error)


def test_answers_may_end_early():
    require_vocabulary(3, _examples(answers=np.array([[2, -1]])))


# What the command line says of a training set; None stands for one of a missing file.
COMMANDS = {
    "half a character": (b'{"question": "\\ud800", "answer": "2"}', "train.jsonl, line 1: quest"),
    "a list for an answer": (b'{"question": "1", "answer": [2]}', "line 1: answer is a list"),
    "nan for an answer": (b'{"question": "1", "answer": NaN}', "line 1: answer is nan; accepted"),
    "no answer": (LINE + b'{"question": "1"}', "line 2 has no field answer; it has: question"),
    "another field": (b'{"q\\n": 1}', r"no field answer, question \(data.fields.*has: 'q\\n'"),
    "brackets": (b"[" * 100_000, "line 1 has too many brackets"),
    "digits": (b"9" * 5000, "line 1 has a number of more than 4,300 digits"),
    "Latin-1": (b"\xf6", f"line 1: .*{UTF8}"),
    "nothing": (b"", "train.jsonl has no rows; accepted"),
    "no room": (b'{"question": "%s", "answer": "2"}' % (b"1" * 99), "accepted: more than 99"),
}


@pytest.mark.parametrize(("content", "message"), COMMANDS.values(), ids=COMMANDS)
def test_the_command_line_refuses(refused, run_arguments, tmp_path, content, message):
    path = tmp_path / "train.jsonl"
    path.write_bytes(content)
    sentence = refused(["train", *run_arguments(tmp_path / "run", "--data.train", str(path))])
    assert re.search(message, sentence), sentence


def test_the_command_line_refuses_a_pipe(refused, run_arguments, tmp_path):
    path = tmp_path / "train.jsonl"
    os.mkfifo(path)
    sentence = refused(["train", *run_arguments(tmp_path / "run", "--data.train", str(path))])
    assert "train.jsonl" in sentence


@pytest.mark.parametrize("labels", [10**6 + 1, 10**15, 10**4000])
def test_classes_without_end_are_refused(labels):
    with pytest.raises(BadInput, match=r"data.labels is .*; accepted: at most 1000000") as error:
        text_task(DataConfig(train="a.jsonl", labels=labels))
    assert len(_sentence(error)) < 200


def test_a_list_on_one_line_may_be_longer_than_a_row(tmp_path, monkeypatch):
    monkeypatch.setattr(text_files, "LONGEST_LINE", 2**16)
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"a": "x" * 1000}] * 100))
    assert len(load_rows(str(path)).rows) == 100
