"""Paths that cannot be used, for every option that takes one: refused before anything is loaded."""

import errno
import os
import pathlib
import re

import pytest

from balora_jax.config.paths import check_output
from balora_jax.errors import BadInput, OutputError
from balora_jax.runs import export, finetune, generate, run

BASE = {
    "--model.source": "m", "--data.train": "t.jsonl", "--output.dir": "{tmp}/run",
    "--training.steps": "1", "--data.eval": "e.jsonl",
}  # fmt: skip
CLASSIFIER = ["--model.task", "sequence-classification", "--data.labels", "2"]
GENERATE = ["generate", "--prompt", "x"]


def _train(option, *more):
    given = [text for pair in BASE.items() if pair[0] != option for text in pair]
    return ["train", *given, *more, option]


# The commands up to the path, by the name that the sentence must have.
FILES = {
    "data.train": _train("--data.train"),
    "data.eval": _train("--data.eval"),
    "data.eval_ood": _train("--data.eval_ood", *CLASSIFIER),
    "data.predict": _train("--data.predict", *CLASSIFIER),
    "--config": ["train", "--config"],
    "--plugin": _train("--plugin"),
    "--prompts": ["generate", "--model", "m", "--prompts"],
}
FOLDERS = {
    "model.source": _train("--model.source"),
    "model.tokenizer": _train("--model.tokenizer"),
    "adapter.init": _train("--adapter.init"),
    "output.dir": _train("--output.dir"),
    "generate --run": [*GENERATE, "--run"],
    "--model": [*GENERATE, "--model"],
    "export --run": ["export", "--run"],
    "merge --run": ["merge", "--run"],
    "export --out": ["export", "--run", "{tmp}", "--out"],
    "merge --out": ["merge", "--run", "{tmp}", "--out"],
    "compare --out": ["compare", "--out"],
}
OPTIONS = FILES | FOLDERS
OUTPUTS = [name for name in OPTIONS if name.endswith("--out") or name == "output.dir"]
# The kind of path, and the reason in the sentence.
PATHS = {
    "~nobody_here/x": "names an unknown user",
    "a" * 5000: "is no path",
    "a" * 300: "cannot be used .File name too long",
    "b/" * 2500: "is no path",
    "a\0b": "is no path",
    "": "is no path|names no file",
    "\ud800/x.jsonl": "is no path",
    "{tmp}/fifo": "is a named pipe",
    "{tmp}/loop": "cannot be used .Too many levels",
    "{tmp}/loop/inside": "cannot be used .Too many levels",
    "{tmp}/dangling": "is a link to nothing",
    "/dev/zero": "is a device",
    "/dev/tty": "is a device",
    "/proc/kmsg": "is a file of the system",
    "/proc/1/mem": "is a file of the system",
}
IDS = ["unknown user", "5000 characters", "300 characters", "5000 deep", "zero byte", "empty",
       "half a character", "pipe", "loop", "in a loop", "dangling", "zeros", "terminal", "kmsg",
       "memory"]  # fmt: skip


@pytest.fixture
def places(tmp_path, monkeypatch):
    """A folder with a pipe, links and a file; nothing may load a model or a data set."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()

    def never(*_):
        raise AssertionError("loaded before the path was refused")

    monkeypatch.setattr(finetune, "set_up", never)
    monkeypatch.setattr(generate, "_load_model", never)
    monkeypatch.setattr(run, "run_mesh", never)
    return tmp_path


def _sentence(refused, places, option, path):
    arguments = [*OPTIONS[option], path]
    return refused([argument.replace("{tmp}", str(places)) for argument in arguments])


@pytest.mark.parametrize(("path", "reason"), PATHS.items(), ids=IDS)
@pytest.mark.parametrize("option", OPTIONS)
def test_a_path_is_refused(refused, places, option, path, reason):
    sentence = _sentence(refused, places, option, path)
    assert option.split()[-1] in sentence, sentence
    if option in FILES or not path.startswith("/proc"):
        assert re.search(reason, sentence), sentence
    assert "accepted: " in sentence


@pytest.mark.parametrize("option", [name for name in FILES if not name.startswith("data.")])
def test_a_folder_is_no_file(refused, places, option):
    sentence = _sentence(refused, places, option, "{tmp}/folder")
    assert re.search(rf"{option} .*folder' is a folder; accepted: a file", sentence), sentence


@pytest.mark.parametrize("option", FOLDERS)
def test_a_file_is_no_folder(refused, places, option):
    sentence = _sentence(refused, places, option, "{tmp}/file")
    name = option.split()[-1]
    assert re.search(rf"{name} .*file' is a file; accepted: a folder", sentence), sentence


@pytest.mark.parametrize("path", ["{tmp}/file/x/y", "/dev/null/x", "/proc/1/x", "/proc/x/y"])
@pytest.mark.parametrize("option", OUTPUTS)
def test_a_folder_that_cannot_be_created_is_refused(refused, places, option, path):
    sentence = _sentence(refused, places, option, path)
    assert re.search("cannot be created .*; accepted: a folder", sentence), sentence


@pytest.mark.parametrize("option", ["--config", "--plugin", "--prompts", "export --run"])
def test_a_path_that_must_exist(refused, places, option):
    sentence = _sentence(refused, places, option, "{tmp}/file/none.py")
    assert re.search("does not exist|is no file|is no Python file", sentence), sentence


@pytest.mark.parametrize("option", OUTPUTS)
def test_a_name_without_room_for_those_beside_it(refused, places, option):
    sentence = _sentence(refused, places, option, "{tmp}/" + "n" * 200)
    assert re.search("has the name 'n+' ... of 200 characters; accepted: a name", sentence)


@pytest.mark.parametrize("option", OUTPUTS)
def test_a_folder_that_only_a_run_writes(refused, places, option):
    (places / "config.yaml").touch()
    sentence = _sentence(refused, places, option, "{tmp}/checkpoints/7")
    assert re.search("is in checkpoints/ of a run, .*; accepted: another folder", sentence)


@pytest.mark.parametrize("option", FOLDERS)
def test_a_backslash_is_no_part_of_a_folders_name(refused, places, option):
    """Checkpoints would be stored in a folder within."""
    (places / "a\\b").mkdir()
    sentence = _sentence(refused, places, option, "{tmp}/a\\b")
    assert "has a backslash; accepted: the path of a folder without one" in sentence


@pytest.mark.parametrize("option", OPTIONS)
def test_a_name_that_is_not_utf8(refused, places, option):
    sentence = _sentence(refused, places, option, "{tmp}/\udcff")
    assert "is no path; accepted: " in sentence


def test_the_folder_of_the_command_is_not_replaced(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match=r"--out \. is the folder that the command runs in"):
        export._target(".", tmp_path)


def test_a_full_disk_is_no_fault_of_the_option(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pathlib.Path, "mkdir", full)
    with pytest.raises(OutputError, match=r"could not be created .No space left.*; make room"):
        check_output("--out", str(tmp_path / "new"))
