"""Tokenized sets that are kept: the same examples, and no trust in what is not whole."""

import hashlib
import json
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest

from balora_jax import data
from balora_jax.config import DataConfig
from balora_jax.data import stored_examples
from balora_jax.data.growing import DTYPES
from balora_jax.errors import BadInput
from balora_jax.runs import prepared_sets
from balora_jax.runs.prepared_sets import prepare_set

CHAT = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer(tiny_llama):
    made = data.load_tokenizer(str(tiny_llama))
    made.chat_template = CHAT
    return made


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The folder of tokenized sets of this test alone."""
    monkeypatch.setenv("BALORA_CACHE", str(tmp_path / "caches"))
    return tmp_path / "caches" / "tokens"


@pytest.fixture
def rows(tmp_path):
    """Rows of which some are cut, some have no answer and one has too long a prompt."""
    path = tmp_path / "rows.jsonl"
    made = [{"question": f"{n} + 1 = ?", "answer": "x" * (n % 40)} for n in range(200)]
    made.append({"question": "?" * 100, "answer": "long"})
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    return path


def configured(train, **options):
    return DataConfig(train=str(train), **{"template": "{instruction}", "max_length": 40} | options)


def same(left, right):
    for name in DTYPES:
        one = getattr(left, name)
        other = getattr(right, name)
        assert (one is None) == (other is None), name
        if one is not None:
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)
    assert str(left) == str(right)
    for name in ("pad_id", "recognized", "parts", "weighted", *stored_examples.NUMBERS):
        assert getattr(left, name) == getattr(right, name), name
    assert data.fingerprint([left]) == data.fingerprint([right])


def conversations(path):
    made = [
        {
            "messages": [
                {"role": "user", "content": f"number {n}"},
                {"role": "assistant", "content": "a" * (n % 7)},
            ][: 1 + (n % 5 > 0)]
        }
        for n in range(60)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    return path


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"eval_share": 0.25, "limit": 150},
        {"fields": {"instruction": "question", "response": "answer"}},
        {"template": "chat", "loss_on": "last"},
        "mixture",
        "folder",
        "csv",
    ],
    ids=str,
)
def test_examples_are_those_without_a_cache(options, tokenizer, place, rows, tmp_path):
    config = None
    if options == "mixture":
        talk = conversations(tmp_path / "talk.jsonl")
        weighted = [
            {"source": str(path), "weight": weight, "limit": 50}
            for path, weight in ((rows, 1.0), (talk, 3.0))
        ]
        config = DataConfig(train=weighted, template="chat", max_length=80)
    elif options == "folder":
        (tmp_path / "set").mkdir()
        for name in ("a.jsonl", "b.jsonl"):
            (tmp_path / "set" / name).write_bytes(rows.read_bytes())
        config = configured(tmp_path / "set")
    elif options == "csv":
        (tmp_path / "rows.csv").write_text('question,answer\n"a, ""b""\nc",d\ne,\n')
        config = configured(tmp_path / "rows.csv")
    elif options.get("template") == "chat":
        config = configured(conversations(tmp_path / "talk.jsonl"), **options)
    else:
        config = configured(rows, **options)
    for split in ("train", "eval") if config.holds_out else ("train",):
        plain = data.prepare(config, tokenizer, split)
        first = prepare_set(config, tokenizer, split, pytest.fail)
        second = prepare_set(config, tokenizer, split, pytest.fail)
        assert isinstance(first.tokens, np.memmap) and isinstance(second.tokens, np.memmap)
        same(plain, first)
        same(plain, second)
        for index in (0, len(plain) - 1):
            np.testing.assert_array_equal(plain[index], second[index])
            for left, right in zip(plain.pair(index), second.pair(index), strict=True):
                np.testing.assert_array_equal(left, right)


def test_the_second_start_tokenizes_nothing(tokenizer, place, rows, monkeypatch):
    first = prepare_set(configured(rows), tokenizer, "train", pytest.fail)
    monkeypatch.setattr(data, "prepare", lambda *arguments: pytest.fail("tokenized again"))
    same(first, prepare_set(configured(rows), tokenizer, "train", pytest.fail))


def test_what_decides_the_tokens_decides_the_place(tokenizer, tiny_llama, place, rows, tmp_path):
    def made(config, split="train", by=tokenizer):
        before = set(place.iterdir()) if place.exists() else set()
        prepare_set(config, by, split, pytest.fail)
        return len(set(place.iterdir()) - before)

    assert made(configured(rows)) == 1
    assert made(configured(rows)) == 0
    # The same content under another folder, and options that decide nothing of the tokens.
    (tmp_path / "copy").mkdir()
    copy = tmp_path / "copy" / rows.name
    copy.write_bytes(rows.read_bytes())
    assert made(configured(copy, packing=False, eval_limit=3)) == 0
    for options in (
        {"max_length": 41},
        {"template": "{instruction}:"},
        {"limit": 100},
        {"eval_share": 0.5},
        {"eval_share": 0.25},
        {"fields": {"instruction": "question", "response": "answer"}},
    ):
        assert made(configured(rows, **options)) == 1, options
    assert made(configured(rows, eval=str(rows)), "eval") == 1
    assert made(configured(rows, eval=str(rows), eval_limit=9), "eval") == 1
    # One more byte in the middle of the file.
    copy.write_text(rows.read_text().replace("7 + 1", "70 + 1", 1))
    assert made(configured(copy)) == 1
    other = data.load_tokenizer(str(tiny_llama))
    other.add_tokens(["question"])
    assert made(configured(rows), by=other) == 1


def test_without_a_cache_nothing_is_kept(tokenizer, place, rows):
    prepare_set(configured(rows, cache=False), tokenizer, "train", pytest.fail)
    assert not place.exists()


def test_bad_rows_leave_nothing(tokenizer, place, rows):
    with rows.open("a") as file:
        file.write('{"question": 1.5, "answer": ["no text"]}\n')
    with pytest.raises(BadInput, match="line 202"):
        prepare_set(configured(rows), tokenizer, "train", pytest.fail)
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("name", [*DTYPES, "description"])
@pytest.mark.parametrize("damage", ["cut", "changed", "missing"])
def test_a_damaged_set_is_made_again_and_said(name, damage, tokenizer, place, tmp_path):
    config = configured(conversations(tmp_path / "talk.jsonl"), template="chat")
    whole = prepare_set(config, tokenizer, "train", pytest.fail)
    plain = data.prepare(config, tokenizer)
    (folder,) = place.iterdir()
    path = folder / ("description.json" if name == "description" else f"{name}.bin")
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        # A new file: the old one is still mapped.
        path.unlink()
        changed = content[: len(content) // 2]
        if damage == "changed":
            changed += bytes([content[len(content) // 2] ^ 1]) + content[len(content) // 2 + 1 :]
        path.write_bytes(changed)
    notes = []
    same(plain, prepare_set(config, tokenizer, "train", notes.append))
    assert len(notes) == 1 and str(folder) in notes[0]
    assert path.name in notes[0] and notes[0].endswith("it is made again")
    same(plain, prepare_set(config, tokenizer, "train", pytest.fail))
    same(plain, whole)


@pytest.mark.parametrize(
    "described", ["[]", "{}", '{"hashes": {"../../rows": "0"}}', '{"hashes": 3}', "\udcff"]
)
def test_a_description_of_others_is_refused(described, tokenizer, place, rows):
    prepare_set(configured(rows), tokenizer, "train", pytest.fail)
    (folder,) = place.iterdir()
    content = described.encode(errors="surrogateescape")
    own_hash = hashlib.sha256(content).hexdigest().encode()
    (folder / "description.json").write_bytes(own_hash + b"\n" + content)
    with pytest.raises(stored_examples.Damaged, match=r"description\.json"):
        stored_examples.read_examples(folder)


def test_a_place_that_cannot_be_written_is_said(tokenizer, place, rows, tmp_path):
    (tmp_path / "caches").write_text("a file")
    notes = []
    examples = prepare_set(configured(rows), tokenizer, "train", notes.append)
    same(data.prepare(configured(rows), tokenizer), examples)
    assert len(notes) == 1
    assert notes[0].startswith("tokenized sets are not kept: ")


def test_a_full_disk_is_said(tokenizer, place, rows, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stored_examples, "describe", full)
    notes = []
    examples = prepare_set(configured(rows), tokenizer, "train", notes.append)
    same(data.prepare(configured(rows), tokenizer), examples)
    assert "No space left on device" in notes[0]
    assert list(place.iterdir()) == []


KILLED = """
import os, signal, sys
from balora_jax import data
from balora_jax.config import DataConfig
from balora_jax.data import stored_examples
from balora_jax.data.growing import GrowingExamples
from balora_jax.runs.prepared_sets import prepare_set
if sys.argv[3] == "half":
    add = GrowingExamples.add
    def killed(self, row, *arguments):
        add(self, row, *arguments)
        if row == 100:
            os.kill(os.getpid(), signal.SIGKILL)
    GrowingExamples.add = killed
else:
    stored_examples.describe = lambda *arguments: os.kill(os.getpid(), signal.SIGKILL)
config = DataConfig(train=sys.argv[1], template="{instruction}", max_length=40)
prepare_set(config, data.load_tokenizer(sys.argv[2]), "train", print)
"""


@pytest.mark.parametrize("moment", ["half", "all but described"])
def test_half_a_set_of_a_killed_process_is_not_found(
    moment, tokenizer, tiny_llama, place, rows, tmp_path
):
    done = subprocess.run([sys.executable, "-c", KILLED, str(rows), str(tiny_llama), moment])
    assert done.returncode == -signal.SIGKILL
    (leftover,) = place.iterdir()
    assert leftover.name.startswith(".") and leftover.name.endswith(".part")
    plain = data.load_tokenizer(str(tiny_llama))
    examples = prepare_set(configured(rows), plain, "train", pytest.fail)
    same(data.prepare(configured(rows), plain), examples)
    assert [path.name for path in place.iterdir() if path == leftover] == []


def test_sets_not_used_for_longest_give_way(tokenizer, place, rows, monkeypatch):
    prepare_set(configured(rows), tokenizer, "train", pytest.fail)
    (first,) = place.iterdir()
    os.utime(first, (0, 0))
    monkeypatch.setattr(prepared_sets, "MOST_BYTES", 1)
    prepare_set(configured(rows, max_length=50), tokenizer, "train", pytest.fail)
    assert len(list(place.iterdir())) == 1
    assert first not in place.iterdir()


def test_the_test_suite_has_its_own_place():
    own = pathlib.Path(os.environ["BALORA_CACHE"])
    assert pathlib.Path.home() / ".cache" not in own.parents
