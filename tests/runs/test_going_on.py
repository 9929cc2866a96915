"""Runs that go on after their end, and folders that are used again."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file

from balora_jax.cli import main
from balora_jax.config.parse import read_config
from balora_jax.runs.finetune import finetune


@pytest.fixture(scope="module")
def finished(run_arguments, tmp_path_factory):
    """A finished run of 4 updates with a constant learning rate."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    finetune(read_config(_arguments(run_arguments, folder, 4)))
    return folder


def _arguments(run_arguments, folder, steps, *more, schedule="constant"):
    settings = ["--training.steps", str(steps), "--optimizer.schedule", schedule]
    settings += ["--optimizer.warmup", "0", "--regularizers.diversity.schedule", "constant"]
    constant = ["--regularizers.consistency.schedule", "constant"]
    constant += ["--regularizers.svd.schedule", "constant"]
    return run_arguments(folder, *settings, *constant, *more)


def _adapter(folder):
    return load_file(folder / "adapter" / "adapter_model.safetensors")


def _steps(folder):
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [record["step"] for record in lines if "loss" in record]


@pytest.fixture
def copied(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def test_an_extended_run_is_the_longer_run(finished, copied, run_arguments, tmp_path, capsys):
    """The bits are the same where no schedule depends on the length."""
    arguments = _arguments(run_arguments, copied, 9, "--output.resume", "true")
    summary = finetune(read_config(arguments)).summary
    assert summary.steps == 9 and _steps(copied) == list(range(1, 10))
    assert "extended from 4 to 9 updates" in capsys.readouterr().out
    finetune(read_config(_arguments(run_arguments, tmp_path / "whole", 9)))
    whole = _adapter(tmp_path / "whole")
    for name, array in _adapter(copied).items():
        np.testing.assert_array_equal(array, whole[name])
    before = json.loads((copied / "summary-4.json").read_text())
    assert before == json.loads((finished / "summary.json").read_text())
    # Afterwards it is a run of that length.
    again = read_config(_arguments(run_arguments, copied, 9, "--output.resume", "true"))
    assert finetune(again).summary.steps == 9


def test_the_schedule_is_that_of_the_new_length(copied, run_arguments, tmp_path):
    linear = tmp_path / "linear"
    finetune(read_config(_arguments(run_arguments, linear, 4, schedule="linear")))
    more = ["--output.resume", "true"]
    finetune(read_config(_arguments(run_arguments, linear, 8, *more, schedule="linear")))
    lines = map(json.loads, (linear / "metrics.jsonl").read_text().splitlines())
    rates = {record["step"]: record["learning_rate"] for record in lines if "loss" in record}
    assert rates[5] == pytest.approx(1e-2 * 4 / 8)
    assert rates[4] < rates[5] and rates[8] == pytest.approx(1e-2 / 8)


def test_a_run_is_not_shortened(copied, run_arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["train", *_arguments(run_arguments, copied, 3, "--output.resume", "true")])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert "training has 3 updates, and the run in" in error and "accepted: as many, or" in error
    assert _steps(copied) == [1, 2, 3, 4]


def test_more_updates_without_resume_are_another_run(copied, run_arguments, capsys):
    with pytest.raises(SystemExit):
        main(["train", *_arguments(run_arguments, copied, 9)])
    assert "--output.resume to resume that run, or --output.overwrite" in capsys.readouterr().err


def test_a_folder_is_used_again(copied, run_arguments, tmp_path):
    (copied / "notes.txt").write_text("mine")
    seed = ["--training.seed", "7"]
    more = [*seed, "--output.overwrite", "true"]
    finetune(read_config(_arguments(run_arguments, copied, 2, *more)))
    assert _steps(copied) == [1, 2] and (copied / "notes.txt").read_text() == "mine"
    assert sorted(path.name for path in (copied / "checkpoints").iterdir() if path.name[0] != "i")
    finetune(read_config(_arguments(run_arguments, tmp_path / "fresh", 2, *seed)))
    fresh = _adapter(tmp_path / "fresh")
    for name, array in _adapter(copied).items():
        np.testing.assert_array_equal(array, fresh[name])


def test_a_folder_is_used_again_for_other_data(copied, run_arguments):
    """Also by its own config.yaml, whatever the command was that wrote it."""
    more = ["--data.limit", "20", "--output.overwrite", "true"]
    finetune(read_config(_arguments(run_arguments, copied, 3, *more)))
    resumed = ["--data.limit", "20", "--output.resume", "true"]
    finetune(read_config(_arguments(run_arguments, copied, 3, *resumed)))
    assert _steps(copied) == [1, 2, 3]
    again = ["--config", str(copied / "config.yaml"), "--data.limit", "30", "--output.overwrite"]
    main(["train", *again])
    assert _steps(copied) == [1, 2, 3]
    assert read_config(["--config", str(copied / "config.yaml")]).data.limit == 30


FOREIGN = {
    "checkpoints/thesis.pt": "holds thesis.pt, which the run did not write",
    "plots/notes.txt": "holds notes.txt, which the run did not write",
    "adapter/my_notes.md": "holds my_notes.md, which the run did not write",
    "metrics.jsonl/x": "metrics.jsonl is no file; accepted: a file, as the run wrote it",
}


@pytest.mark.parametrize("name", FOREIGN)
def test_nothing_of_others_is_deleted(copied, run_arguments, capsys, name):
    if name.startswith("metrics.jsonl"):
        (copied / "metrics.jsonl").unlink()
    (copied / name).parent.mkdir(exist_ok=True)
    (copied / name).write_text("mine")
    before = sorted(copied.rglob("*"))
    with pytest.raises(SystemExit) as stopped:
        main(["train", *_arguments(run_arguments, copied, 2, "--output.overwrite", "true")])
    assert stopped.value.code == 2 and FOREIGN[name] in capsys.readouterr().err
    assert sorted(copied.rglob("*")) == before


def test_a_project_with_a_config_yaml_is_no_run(run_arguments, tmp_path, capsys):
    (tmp_path / "config.yaml").write_text("my: project\n")
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "mine.png").write_text("mine")
    with pytest.raises(SystemExit) as stopped:
        main(["train", *_arguments(run_arguments, tmp_path, 2, "--output.overwrite", "true")])
    assert stopped.value.code == 2
    assert "has a config.yaml that no run wrote" in capsys.readouterr().err
    assert (tmp_path / "plots" / "mine.png").read_text() == "mine"


def test_summaries_of_other_names_stay(copied, run_arguments):
    (copied / "summary-notes.json").write_text("mine")
    finetune(read_config(_arguments(run_arguments, copied, 2, "--output.overwrite", "true")))
    assert (copied / "summary-notes.json").read_text() == "mine"


def test_nothing_is_deleted_by_a_run_that_cannot_start(copied, run_arguments, capsys):
    before = _adapter(copied)
    more = ["--output.overwrite", "true", "--data.train", "none.jsonl"]
    with pytest.raises(SystemExit) as stopped:
        main(["train", *_arguments(run_arguments, copied, 2, *more)])
    assert stopped.value.code == 2
    assert _adapter(copied).keys() == before.keys() and (copied / "summary.json").is_file()


def test_a_folder_of_other_files_is_not_overwritten(run_arguments, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(SystemExit):
        main(["train", *_arguments(run_arguments, tmp_path, 2, "--output.overwrite", "true")])
    assert "holds files that are no run's" in capsys.readouterr().err
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_resume_and_overwrite_exclude_each_other(run_arguments, tmp_path, capsys):
    both = ["--output.overwrite", "true", "--output.resume", "true"]
    with pytest.raises(SystemExit) as stopped:
        main(["train", *_arguments(run_arguments, tmp_path / "run", 2, *both)])
    assert stopped.value.code == 2
    assert "accepted: one of the two" in capsys.readouterr().err
