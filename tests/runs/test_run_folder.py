"""A run's folder under damage, with two writers, and with other inputs than before."""

import errno
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

import numpy as np
import orbax.checkpoint as ocp
import pytest
from safetensors.numpy import load_file

from balora_jax.adapters import peft_format
from balora_jax.cli import main

ROOT = pathlib.Path(__file__).parents[2]


def _adapter(folder):
    return load_file(folder / "adapter" / "adapter_model.safetensors")


def _equal(left, right):
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_array_equal(left[name], right[name], err_msg=name)


@pytest.fixture(scope="module")
def finished(run_arguments, tmp_path_factory):
    """A finished run of six updates; its checkpoints are of steps 4 and 6."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    main(["train", *run_arguments(folder)])
    return folder


@pytest.fixture
def run(finished, run_arguments, tmp_path):
    """A copy of the run, and the arguments that resume it."""
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    return folder, ["train", *run_arguments(folder), "--output.resume"]


def _refusal(arguments, capsys):
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_info:
        main(arguments)
    assert exit_info.value.code == 2
    errors = capsys.readouterr().err.splitlines()
    assert errors[-1].startswith("balora: ") and "Traceback" not in errors
    return errors[-1]


def test_a_flipped_bit_in_the_last_checkpoint_costs_its_steps_only(run, finished, capsys):
    folder, resume = run
    data = next((folder / "checkpoints" / "6" / "state" / "ocdbt.process_0" / "d").iterdir())
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 4
    data.write_bytes(content)
    main(resume)
    assert "checkpoint of step 6 is not used" in capsys.readouterr().out
    _equal(_adapter(folder), _adapter(finished))
    records = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").open()]
    assert records == [json.loads(line)["step"] for line in (finished / "metrics.jsonl").open()]


def test_damaged_adapters_of_step_0_are_made_again(run, finished, capsys):
    folder, resume = run
    initial = folder / "checkpoints" / "initial" / "adapters"
    for path in initial.rglob("manifest.ocdbt"):
        path.write_bytes(b"")
    shutil.rmtree(folder / "checkpoints" / "6")
    main(resume)
    assert "is damaged and is made again" in capsys.readouterr().out
    _equal(_adapter(folder), _adapter(finished))


@pytest.mark.parametrize("command", ["export", "merge"])
def test_readers_use_the_newest_whole_checkpoint_and_move_nothing(run, tmp_path, capsys, command):
    folder, _ = run
    (folder / "checkpoints" / "6" / "data" / "metadata").write_text("")
    before = sorted(folder.rglob("*"))
    main([command, "--run", str(folder), "--out", str(tmp_path / "out")])
    assert "step 6 is left out" in capsys.readouterr().err
    assert sorted(folder.rglob("*")) == before
    sentence = _refusal([command, "--run", str(folder), "--checkpoint", "6"], capsys)
    assert "no whole checkpoint '6'" in sentence and "data/metadata" in sentence


@pytest.mark.parametrize("damage", ["emptied", "cut", "binary", "a folder", "deleted"])
@pytest.mark.parametrize("name", ["config.yaml", "metrics.jsonl", "fingerprints.json"])
def test_a_damaged_file_is_one_sentence_and_nothing_is_lost(run, finished, capsys, name, damage):
    folder, resume = run
    path = folder / name
    if damage == "deleted" and name == "fingerprints.json":
        main(resume)
        return
    content = path.read_bytes()
    path.unlink()
    if damage == "a folder":
        path.mkdir()
    elif damage != "deleted":
        damaged = {"emptied": b"", "cut": content[: len(content) // 2], "binary": b"\x00\xff\x00"}
        path.write_bytes(damaged[damage])
    if damage == "cut" and name == "metrics.jsonl":
        main(resume)
        assert "has no record of update" in capsys.readouterr().out
        _equal(_adapter(folder), _adapter(finished))
        return
    before = sorted(folder.rglob("*"))
    sentence = _refusal(resume, capsys)
    assert str(folder) in sentence
    assert sorted(folder.rglob("*")) == before


def test_a_run_that_moved_resumes_where_it_is(run, tmp_path, capsys):
    folder, _ = run
    moved = tmp_path / "moved"
    folder.rename(moved)
    resume = ["train", "--config", str(moved / "config.yaml"), "--output.resume"]
    sentence = _refusal(resume, capsys)
    assert f"accepted: also --output.dir {moved}" in sentence
    main([*resume, "--output.dir", str(moved)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["moved"]


def test_nothing_to_resume_is_said(run_arguments, tmp_path, capsys):
    main(["train", *run_arguments(tmp_path / "new"), "--output.resume"])
    assert f"{tmp_path / 'new'} holds no run to resume" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["export", "merge"])
def test_outputs_say_which_checkpoint_they_are_of(run, capsys, command):
    folder, _ = run
    main([command, "--run", str(folder), "--checkpoint", "4"])
    assert f"{folder}: using its checkpoint of step 4" in capsys.readouterr().err
    if command == "export":
        card = (folder / "adapter" / "README.md").read_text()
        assert "| updates | 4 of " in card
        assert (folder / "adapter" / "README.md").stat().st_size
    (folder / "summary.json").unlink()
    main([command, "--run", str(folder)])
    assert "has not ended; using its checkpoint of step 6" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["train", "export"])
def test_an_edited_configuration_is_refused_unless_that_is_meant(run, tmp_path, capsys, command):
    folder, resume = run
    arguments = resume
    if command == "export":
        arguments = ["export", "--run", str(folder), "--out", str(tmp_path / "out")]
    path = folder / "config.yaml"
    edited = path.read_text().replace("save_every: 2", "save_every: 5")
    path.write_text(edited)
    sentence = _refusal(arguments, capsys)
    assert f"{path} has changed since the run wrote it" in sentence
    assert "without its first line" in sentence
    path.write_text(edited.split("\n", 1)[1])
    main(arguments)


@pytest.mark.parametrize("name", ["adapter", "plots", "tensorboard", "checkpoints", "merged"])
def test_a_file_in_place_of_a_folder_is_refused(run, capsys, name):
    folder, resume = run
    if (folder / name).exists():
        shutil.rmtree(folder / name)
    (folder / name).write_text("")
    assert f"{name} is no folder; accepted: a folder" in _refusal(resume, capsys)


@pytest.mark.parametrize("step", ["file", "binary name"])
def test_strange_names_among_the_checkpoints_do_no_harm(run, finished, step):
    folder, resume = run
    if step == "file":
        (folder / "checkpoints" / "8").write_text("")
    else:
        (folder / "checkpoints" / "7.orbax-checkpoint-tmp-1").mkdir()
        (folder / "checkpoints" / "٣").mkdir()
    main(resume)
    _equal(_adapter(folder), _adapter(finished))


def test_a_run_that_ended_before_its_first_checkpoint_starts_again(run, finished):
    folder, resume = run
    shutil.rmtree(folder / "checkpoints")
    (folder / "summary.json").unlink()
    arguments = [argument for argument in resume if argument != "--output.resume"]
    main(arguments)
    _equal(_adapter(folder), _adapter(finished))


def test_changed_inputs_are_refused(run, run_arguments, sums, tiny_llama, tmp_path, capsys):
    folder, _ = run
    config = folder / "config.yaml"
    # Without the hash of its lines: these changes are meant.
    text = config.read_text().split("\n", 1)[1]

    rows = tmp_path / "train.jsonl"
    lines = (sums / "train.jsonl").read_text().splitlines(keepends=True)
    rows.write_text("".join([*lines[1:], lines[0]]))
    config.write_text(text.replace(str(sums / "train.jsonl"), str(rows)))
    resume = ["train", "--config", str(config), "--output.dir", str(folder), "--output.resume"]
    assert "the data sets (data.train, data.eval)" in _refusal(resume, capsys)

    model = tmp_path / "model"
    shutil.copytree(tiny_llama, model)
    weights = model / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-3] ^= 1
    weights.write_bytes(content)
    config.write_text(text.replace(str(tiny_llama), str(model)))
    assert "model.source's weights changed since" in _refusal(resume, capsys)
    assert "model.source's weights" in _refusal(["merge", "--run", str(folder)], capsys)

    tokenizer = model / "tokenizer.json"
    shutil.copyfile(tiny_llama / "model.safetensors", weights)
    described = json.loads(tokenizer.read_text())
    vocabulary = described["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    tokenizer.write_text(json.dumps(described))
    assert "the tokenizer changed since" in _refusal(resume, capsys)


def _start(arguments, **options):
    command = [sys.executable, "train.py", *arguments]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def _wait_until(condition, process, timeout=180):
    deadline = time.monotonic() + timeout
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.05)


@pytest.mark.parametrize("order", ["beside a running one", "at once"])
def test_of_two_writers_one_works_and_one_is_refused(run_arguments, finished, tmp_path, order):
    folder = tmp_path / "run"
    arguments = run_arguments(folder)
    if order == "beside a running one":
        arguments += ["--training.steps", "200"]
    first = _start(arguments)
    if order == "beside a running one":
        _wait_until(lambda: (folder / "config.yaml").exists(), first)
    second = _start([*arguments, "--output.resume"])
    results = [(process.wait(), *process.communicate()) for process in (first, second)]
    results.sort()
    codes = [code for code, _, _ in results]
    if codes == [0, 0]:
        # The first had ended before the second looked.
        assert order == "at once"
    else:
        assert codes == [0, 2], results
        refused = results[1][2].splitlines()
        assert any(text in refused[-1] for text in ("being written by", "another run has begun"))
    if order == "at once":
        _equal(_adapter(folder), _adapter(finished))


def test_a_reader_beside_a_running_writer_disturbs_nothing(run_arguments, tmp_path, capsys):
    alone = tmp_path / "alone"
    together = tmp_path / "together"
    options = ("--training.steps", "40", "--output.save_every", "1")
    main(["train", *run_arguments(alone, *options)])
    writer = _start(run_arguments(together, *options))
    _wait_until(lambda: (together / "checkpoints" / "1").exists(), writer)
    reads = 0
    while writer.poll() is None and reads < 20:
        main(["export", "--run", str(together), "--out", str(tmp_path / f"out{reads}")])
        reads += 1
    assert writer.wait() == 0, writer.communicate()
    assert reads
    _equal(_adapter(alone), _adapter(together))


def test_checkpoints_that_go_while_they_are_read(run, tmp_path, monkeypatch):
    """A run that keeps one checkpoint deletes it as soon as it has written the next."""
    folder, _ = run
    restore = ocp.Checkpointer.restore
    left = [folder / "checkpoints" / "6"]

    def slow_restore(self, directory, *arguments, **options):
        if left and str(directory) == str(left[-1]):
            shutil.rmtree(left.pop())
        return restore(self, directory, *arguments, **options)

    monkeypatch.setattr(ocp.Checkpointer, "restore", slow_restore)
    main(["export", "--run", str(folder), "--out", str(tmp_path / "out")])
    assert not left
    assert "| updates | 4 of " in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("command", ["export", "audit"])
def test_a_named_pipe_is_not_waited_for(run, capsys, command):
    folder, _ = run
    (folder / "metrics.jsonl").unlink()
    os.mkfifo(folder / "metrics.jsonl")
    sentence = _refusal([command, "--run", str(folder)], capsys)
    assert "metrics.jsonl is no file; accepted: a file" in sentence


def test_a_folder_without_permission_is_one_sentence(run, capsys, monkeypatch):
    """Tests may run as root, whom nothing is refused."""
    folder, _ = run

    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", str(folder / "adapter"))

    monkeypatch.setattr("balora_jax.runs.export.replacing_folder", refuse)
    sentence = _refusal(["export", "--run", str(folder)], capsys)
    assert "adapter' cannot be read or written (Permission denied); accepted" in sentence


@pytest.mark.parametrize("command", ["export", "merge", "train"])
@pytest.mark.parametrize("kind", ["notes.txt", "folder", "file"])
def test_nothing_of_others_is_replaced(run, capsys, command, kind):
    folder, resume = run
    target = folder / ("merged" if command == "merge" else "adapter")
    shutil.rmtree(target, ignore_errors=True)
    if kind == "file":
        target.write_text("mine")
    elif kind == "folder":
        (target / "mine").mkdir(parents=True)
    else:
        target.mkdir()
        (target / kind).write_text("mine")
        (target / "adapter_model.safetensors").write_text("the run's")
    before = sorted(folder.rglob("*"))
    arguments = resume if command == "train" else [command, "--run", str(folder)]
    sentence = _refusal(arguments, capsys)
    assert str(target) in sentence
    assert ("is no folder" if kind == "file" else "did not write") in sentence
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("export", "README.md/mine.txt"),
        ("export", "README.md"),
        ("export", "other.safetensors"),
        ("merge", "other.safetensors"),
    ],
)
def test_files_of_others_with_names_like_the_runs(run, capsys, command, name):
    folder, _ = run
    target = folder / ("merged" if command == "merge" else "adapter")
    shutil.rmtree(target, ignore_errors=True)
    (target / name).parent.mkdir(parents=True)
    (target / name).write_text("mine")
    sentence = _refusal([command, "--run", str(folder)], capsys)
    assert f"{target} holds {name.partition('/')[0]}, which the run did not write" in sentence
    assert (target / name).read_text() == "mine"


def test_a_folder_that_was_filled_meanwhile_is_kept(run, tmp_path, capsys, monkeypatch):
    folder, _ = run
    out = tmp_path / "out"
    export_adapter = peft_format.export_adapter

    def slow_export(*arguments, **options):
        out.mkdir()
        (out / "theirs").write_text("theirs")
        export_adapter(*arguments, **options)

    monkeypatch.setattr(peft_format, "export_adapter", slow_export)
    sentence = _refusal(["export", "--run", str(folder), "--out", str(out)], capsys)
    assert "exists and is not empty" in sentence
    assert [path.name for path in out.iterdir()] == ["theirs"]


@pytest.mark.parametrize("inside", ["adapter", "merged"])
def test_nothing_is_written_into_what_a_run_replaces(run, capsys, inside):
    folder, _ = run
    sentence = _refusal(["export", "--run", str(folder), "--out", f"{folder}/{inside}/x"], capsys)
    assert f"is in {inside}/ of a run" in sentence
