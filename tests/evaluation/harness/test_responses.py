"""Answers on disk: found again, whole after a kill, and refused for another model."""

import os

import pytest

from balora_jax.errors import BadInput
from balora_jax.evaluation.harness.responses import Responses, request_key


def test_answers_are_found_again(tmp_path):
    path = tmp_path / "answers.jsonl"
    key = request_key("loglikelihood", ("a", "b"))
    with Responses(path, "model") as responses:
        assert key not in responses
        responses.add(key, (-1.5, False))
    with Responses(path, "model") as responses:
        assert responses[key] == [-1.5, False]


@pytest.mark.parametrize("cut", range(1, 40, 7))
def test_a_line_that_a_kill_cut_is_answered_again(tmp_path, cut):
    path = tmp_path / "answers.jsonl"
    with Responses(path, "model") as responses:
        responses.add("first", "1")
        responses.add("second", "2")
    path.write_bytes(path.read_bytes()[:-cut])
    with Responses(path, "model") as responses:
        assert "first" in responses and "second" not in responses
        responses.add("second", "2")
    with Responses(path, "model") as responses:
        assert responses["second"] == "2"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"model": "other"}\n', "holds the answers of another model"),
        (b'{"model": "model"}\n[]\n', "cannot be read"),
        (b'{"model": "model"}\n{"request": "x"}\n', "cannot be read"),
        (b"[]\n", "cannot be read"),
        (b"no json\n", "cannot be read"),
        (b"\xff\xfe\n", "cannot be read"),
        (b"[" * 100_000 + b"\n", "cannot be read"),
    ],
    ids=["another model", "a list", "no answer", "no model", "text", "binary", "brackets"],
)
def test_other_files_are_refused_and_kept(tmp_path, content, reason):
    path = tmp_path / "answers.jsonl"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=f"answers.jsonl {reason}.*; accepted: .*another --out"):
        Responses(path, "model")
    assert path.read_bytes() == content


@pytest.mark.parametrize("damage", [(b"-1.5", b"-1.6"), (b'"first"', b'"forst"'), (b"[", b"{")])
def test_a_line_that_has_changed_is_named(tmp_path, damage):
    path = tmp_path / "answers.jsonl"
    with Responses(path, "model") as responses:
        responses.add("second", "2")
        responses.add("first", [-1.5, True])
    path.write_bytes(path.read_bytes().replace(*damage))
    with pytest.raises(BadInput, match=r"cannot be read \(line 3"):
        Responses(path, "model")


@pytest.mark.parametrize("kind", ["text without an end", "pipe", "folder"])
def test_what_is_no_file_of_answers_is_refused(tmp_path, kind):
    path = tmp_path / "answers.jsonl"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.write_text("my notes")
    with pytest.raises(BadInput, match=r"it is no file|it holds something else"):
        Responses(path, "model")


def test_nothing_is_written_before_the_first_answer(tmp_path):
    path = tmp_path / "new" / "answers.jsonl"
    with Responses(path, "model") as responses:
        assert not path.parent.exists()
        responses.add("first", 1)
    assert len(path.read_text().splitlines()) == 2


def test_requests_have_names_of_their_own():
    names = {
        request_key(kind, arguments, occurrence)
        for kind in ("loglikelihood", "generate_until")
        for arguments in (("a", "b"), ("ab", ""), ("a", {"until": ["b"]}))
        for occurrence in (0, 1)
    }
    assert len(names) == 12
