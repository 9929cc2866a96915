"""Yaml files of options that cannot be used: each sentence of refusal names the file."""

import os
import re
import time

import pytest

PREFIX = "model: {source: m}\ndata: {train: t.jsonl}\noutput: {dir: o}\n"
ACCEPTED = "accepted: a yaml file of options"
BOMB = "a: &a [x, x]\n" + "".join(
    f"{chr(98 + depth)}: &{chr(98 + depth)} [" + ", ".join(9 * [f"*{chr(97 + depth)}"]) + "]\n"
    for depth in range(12)
)
CONTENTS = {
    "nothing": (b"", f"holds nothing; {ACCEPTED}"),
    "a space": (b" \n", f"holds nothing; {ACCEPTED}"),
    "a comment": (b"# x\n", f"holds nothing; {ACCEPTED}"),
    "null": (b"null\n", f"holds nothing; {ACCEPTED}"),
    "a tilde": (b"~\n", f"holds nothing; {ACCEPTED}"),
    "a text": (b"steps\n", f"holds a single value; {ACCEPTED}"),
    "a number": (b"1\n", f"holds a single value; {ACCEPTED}"),
    "a truth": (b"true\n", f"holds a single value; {ACCEPTED}"),
    "a list": (b"- model\n- data\n", f"holds a list; {ACCEPTED}"),
    "an empty list": (b"[]", f"holds a list; {ACCEPTED}"),
    "two documents": (b"model: {}\n---\ndata: {}\n", f"line 2 is no yaml .*; {ACCEPTED}"),
    "binary": (b"\x80\x04\x95\xff" * 20, f"is not text in UTF-8 .*; {ACCEPTED}"),
    "Latin-1": ("data: {train: \xe9.jsonl}".encode("latin-1"), "not text in UTF-8 .* at byte 14"),
    "UTF-16": ("model: {source: m}".encode("utf-16"), f"is not text in UTF-8 .*; {ACCEPTED}"),
    "a zero byte": (b"model: {source: 'a\x00b'}", f"is no yaml .*; {ACCEPTED}"),
    "a control character": (b"model: {source: 'a\x07b'}", f"is no yaml .*; {ACCEPTED}"),
    "a key twice": (b"training:\n  steps: 1\n  steps: 2\n", "line 3 has the key steps a second"),
    "a section twice": (b"model: {source: a}\nmodel: {source: b}\n", "line 2 has the key model a"),
    "a key twice in quotes": (b"'method': lora\nmethod: full\n", "line 2 has the key method a sec"),
    "a deep key twice": (b"regularizers: {svd: {k: 1, k: 2}}", "line 1 has the key k a second"),
    "an alias": (b"a: &a 1\nb: *a\n", "line 2 has an alias .*a.; .*with every value written out"),
    "an alias bomb": (BOMB.encode(), f"line 2 has an alias .*; {ACCEPTED}"),
    "an alias of itself": (b"a: &a [*a]\n", f"line 1 has an alias .*; {ACCEPTED}"),
    "an alias of nothing": (b"a: *b\n", f"line 1 has an alias .*; {ACCEPTED}"),
    "a merge": (b"a: &a {b: 1}\nc:\n  <<: *a\n", f"line 3 has an alias .*; {ACCEPTED}"),
    "a deep list": (b"a: " + b"[" * 100000, f"line 1 is no yaml .*depth.*; {ACCEPTED}"),
    "a deep mapping": (b"{a: " * 100000, f"line 1 is nested too deep; {ACCEPTED}"),
    "deep lines": (
        b"".join(b" " * depth + b"a:\n" for depth in range(600)), "line 2. is nested too deep"
    ),
    "dashes": (b"- " * 100000, f"nested too deep; {ACCEPTED}"),
    "question marks": (b"? " * 100000, f"nested too deep; {ACCEPTED}"),
    "a huge file": (b"# " + b"x" * 2**21, f"is larger than 1048576 bytes; {ACCEPTED}"),
    "an open bracket": (b"model: [\n", f"is no yaml .*; {ACCEPTED}"),
    "an open quote": (b"model: 'a\n", f"is no yaml .*; {ACCEPTED}"),
    "a tab": (b"model:\n\tsource: a\n", f"line 2 is no yaml .*; {ACCEPTED}"),
    "a colon too many": (b"model: source: a\n", f"line 1 is no yaml .*; {ACCEPTED}"),
    "a directive": (b"%YAML 9.9\n---\na: 1\n", f"is no yaml .*; {ACCEPTED}"),
    "a Python object": (b"model: !!python/name:os.system\n", f"is no yaml .*; {ACCEPTED}"),
    "a tag of one's own": (b"model: !mine {source: a}\n", f"line 1 is no yaml .*; {ACCEPTED}"),
    "a date that is none": (b"model: !!timestamp 2020-99-99\n", f"is no yaml .*; {ACCEPTED}"),
    "a number of 5000 digits": (b"training: {steps: " + b"1" * 5000 + b"}", "is no yaml .*digits"),
    "a number for a key": (b"1: a\n", f"line 1 has the key '1', which is no text; {ACCEPTED}"),
    "null for a key": (b"null: a\n", "line 1 has the key 'null', which is no text"),
    "a truth for a key": (b"model: {yes: a}\n", "line 1 has the key 'yes', which is no text"),
    "a list for a key": (b"? [a]\n: b\n", "line 1 has the key .*, which is no text"),
    "an unknown section": (b"modle: {source: a}\n", "there is no option modle.*; accepted: .*"),
    "an unknown option": (b"adapter: {rnk: 3}\n", r"no option adapter\.rnk; accepted: ad"),
    "an unknown term": (b"regularizers: {mine: {weight: 1}}\n", r"regularizers\.mine.*--plugin"),
    "an empty key": (b"'': 1\n", "option.*; accepted"),
    "a dotted key": (b"adapter.rnk: 3\n", r"no option adapter\.rnk; accepted: ad"),
    "a key with spaces": (b"a b: 3\n", "option.* a b; accepted"),
    "a long key": (b"a" * 5000 + b": 3\n", "accepted"),
    "another file": (b"config: other.yaml\n", "has the option config; accepted: --config FILE"),
    "a bomb in quotes": (
        b"adapter: {rank: '[&a [x], *a]'}", "is '.&a .x., .a.', which as yaml has"
    ),
    "a deep text": (b"adapter: {rank: '" + b"[" * 100000 + b"'}", "rank is .*; accepted: a whole"),
    "a number of text": (b"training: {steps: many}", r"training\.steps is 'many'; accepted: a"),
    "a set": (b"training: {steps: !!set {a, b}}", r"training\.steps.* is .*; accepted"),
    "bytes": (b"training: {steps: !!binary aGVsbG8=}", r"steps is .*; accepted: a whole"),
    "a date": (b"training: {steps: 2020-01-01}", r"training\.steps is '2020-01-01'; acc"),
    "an hour": (b"training: {steps: 1:30:00.5}", r"steps is .*; accepted: a whole"),
    "nan": (b"optimizer: {learning_rate: .nan}", r"learning_rate is nan; accepted: a"),
    "inf": (b"optimizer: {learning_rate: .inf}", r"learning_rate is inf; accepted: a"),
    "1e400": (b"optimizer: {learning_rate: 1e400}", "learning_rate is inf; accepted: a"),
    "null for a rate": (b"optimizer: {learning_rate: null}", "rate is .*; accepted: a numb"),
    "null for a rank": (b"adapter: {rank: null}", r"adapter\.rank is .*; accepted: a whole number"),
    "null for a dtype": (b"model: {dtype: null}", "dtype is .*; accepted: float32 or bfloat16"),
    "null for a template": (b"data: {template: null}", "template is .*; accepted: text"),
    "null for fields": (b"data: {fields: null}", "fields is .*; accepted: a mapping"),
    "null for targets": (b"adapter: {targets: null}", "targets is .*; accepted: .*text"),
    "null for a truth": (b"output: {resume: null}", "resume is .*; accepted: true or false"),
    "a number for a truth": (b"output: {resume: 1}", "resume is .*; accepted: true or false"),
    "a mapping for a text": (b"model: {source: {a: b}}", r"model\.source.* is .*; accepted: text"),
    "a list for a text": (b"model: {source: [a]}", r"model\.source is .*; accepted: text"),
    "numbers for targets": (b"adapter: {targets: [1]}", "targets is .*; accepted: .*text"),
    "a text for plugins": (b"plugins: my.py", "plugins is a record .*; accepted: --plug"),
    "a start of bytes": (b"adapter: {init: !!binary aGVsbG8=}", "init is .*; accepted: text or"),
}  # fmt: skip


@pytest.mark.parametrize("content, match", CONTENTS.values(), ids=CONTENTS)
def test_a_content_is_refused(refused, tmp_path, content, match):
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    base = tmp_path / "base.yaml"
    base.write_text(f"{PREFIX}training: {{steps: 1}}\n")
    start = time.monotonic()
    sentence = refused(["train", "--config", base, "--config", path])
    assert time.monotonic() - start < 5
    assert re.search(match, sentence), sentence
    assert "mine.yaml" in sentence
    assert "Literal" not in sentence and "<class" not in sentence


SECTIONS = [
    "model", "data", "output", "training", "adapter", "regularizers", "optimizer", "mesh",
    "regularizers.svd", "regularizers.diversity", "regularizers.consistency",
]  # fmt: skip


@pytest.mark.parametrize("value", ["null", "", "1", "text", "[]", "[a, b]", "true", "!!set {a}"])
@pytest.mark.parametrize("section", SECTIONS)
def test_a_section_is_refused(refused, tmp_path, section, value):
    path = tmp_path / "mine.yaml"
    outer, _, inner = section.partition(".")
    path.write_text(f"{outer}: {{{inner}: {value}}}\n" if inner else f"{outer}: {value}\n")
    sentence = refused(["train", "--config", path])
    match = rf"mine\.yaml: {re.escape(section)} is .*; accepted: a section with "
    assert re.search(match, sentence), sentence


ARGUMENTS = {
    "no file": (["--config"], "--config .*accepted"),
    "an empty name": (["--config", ""], "--config '' is no path; accepted: the path of a file"),
    "an empty name after =": (
        ["--config="],
        "--config '' is no path; accepted: the path of a file",
    ),
    "another option": (["--config", "--model.source", "m"], "--config .*; accepted"),
    "options as text": (
        ["--config", "{model: {source: m}}"],
        "--config .*does not exist; accepted",
    ),
    "lines as text": (["--config", "model:\n  source: m"], "--config .*does not exist; accepted"),
    "a word": (
        ["--config", "quickstart"],
        "--config 'quickstart' does not exist; accepted",
    ),
    "minus": (["--config", "-"], "--config '-' does not exist; accepted: the path of a file"),
    "a folder": (["--config", "{tmp}"], "--config .* is a folder; accepted: a file"),
    "an address": (
        ["--config", "https://x.y/z.yaml"],
        "--config is .*accepted: the path of a file",
    ),
    "an address of nothing": (["--config", "s3://b/"], "--config is .*accepted: s3://BUCKET"),
}


@pytest.mark.parametrize("arguments, match", ARGUMENTS.values(), ids=ARGUMENTS)
def test_a_config_option_is_refused(refused, tmp_path, arguments, match):
    filled = [argument.replace("{tmp}", str(tmp_path)) for argument in arguments]
    sentence = refused(["train", *filled])
    assert re.search(match, sentence), sentence


def test_a_value_of_the_command_line_is_not_the_file_s(refused, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(f"{PREFIX}training: {{steps: 1}}\n")
    sentence = refused(["train", "--config", path, "--training.steps", "0"])
    assert sentence == "balora: training.steps is 0; accepted: a whole number of at least 1"
    path.write_text(f"{PREFIX}training: {{steps: 0}}\n")
    sentence = refused(["train", "--config", path])
    assert sentence.startswith(f"balora: {os.fspath(path)}: training.steps is 0; accepted: a whole")
