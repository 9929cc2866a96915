"""Runs that send their numbers to W&B, MLflow and trackio, and go on in the same runs there.

MLflow's package is too large for the extra `test`: its tests here run where it is installed, and
tests/reporting/loggers has its requests everywhere.
"""

import importlib.util
import json
import os
import pathlib
import sqlite3
import subprocess
import sys
import types

import jax
import pytest
import wandb_files

from balora_jax.cli import main
from balora_jax.reporting.loggers import starting
from balora_jax.reporting.loggers.service import summary_values
from balora_jax.runs import restoring
from balora_jax.training.run_folder import RunFolder

ROOT = pathlib.Path(__file__).parents[2]
SERVICES = [name for name in starting.SERVICES if importlib.util.find_spec(name)]


def _needs(name):
    return pytest.mark.skipif(name not in SERVICES, reason=f"needs {name}, which is not installed")


def _train(arguments, folder):
    """Run balora train in a process with places of its own for the services."""
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "WANDB_MODE": "offline",
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
        "TRACKIO_DIR": str(folder / "trackio"),
    }
    command = [sys.executable, str(ROOT / "train.py"), *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def extended(run_arguments, tmp_path_factory):
    """A run of three updates that is extended to six, in the folder run."""
    if not SERVICES:
        pytest.skip("needs wandb, mlflow or trackio, none of which is installed")
    folder = tmp_path_factory.mktemp("logged")
    loggers = ["--output.loggers", json.dumps(SERVICES), "--training.eval_every", "2"]
    arguments = run_arguments(folder / "run", *loggers)
    _train([*arguments, "--training.steps", "3"], folder)
    kept = (folder / "run" / "loggers.json").read_text()
    done = _train([*arguments, "--output.resume"], folder)
    assert "takes no records" not in done.stderr
    # The same runs at the services.
    assert (folder / "run" / "loggers.json").read_text() == kept
    return folder, json.loads(kept)


def _records(folder):
    return [json.loads(line) for line in (folder / "run" / "metrics.jsonl").open()]


def test_no_tensorboard_unless_it_is_named(extended):
    folder, _ = extended
    assert not (folder / "run" / "tensorboard").exists()


@_needs("wandb")
def test_wandb_has_every_number_offline(extended):
    folder, kept = extended
    identity = kept["wandb"]["id"]
    files = sorted((folder / "run" / "wandb").glob(f"offline-run-*-{identity}/*.wandb"))
    assert len(files) == 2
    rows = []
    for file in files:
        records = wandb_files.read_records(file)
        rows += wandb_files.history(records)
        assert wandb_files.config(records)["adapter"]["rank"] == 4
    assert [row["_step"] for row in rows] == [*range(7)]
    for record in _records(folder):
        row = rows[record["step"]]
        assert {name: row[name] for name in record if name != "step"} == {
            name: value for name, value in record.items() if name != "step"
        }
    summary = wandb_files.summary(records)
    written = json.loads((folder / "run" / "summary.json").read_text())
    expected = summary_values(written)
    assert {name: summary[name] for name in expected} == expected
    assert written["memory_host_peak"] > 2**20


@_needs("mlflow")
def test_mlflow_has_one_run_with_every_number(extended):
    from mlflow import MlflowClient

    folder, kept = extended
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("balora-jax")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_id == kept["mlflow"]["run_id"]
    assert run.info.status == "FINISHED" and run.info.run_name == "run"
    assert run.data.params["adapter.rank"] == "4"
    losses = client.get_metric_history(run.info.run_id, "loss")
    steps = [record for record in _records(folder) if "loss" in record]
    assert [(metric.step, metric.value) for metric in losses] == [
        (record["step"], record["loss"]) for record in steps
    ]
    evaluations = client.get_metric_history(run.info.run_id, "eval_loss")
    assert [metric.step for metric in evaluations] == [0, 2, 3, 4, 6]
    assert run.data.metrics["summary/steps"] == 6


@_needs("trackio")
def test_trackio_has_one_run_with_every_number(extended):
    folder, kept = extended
    with sqlite3.connect(folder / "trackio" / "balora-jax.db") as database:
        rows = database.execute(
            "select run_name, step, metrics from metrics order by id"
        ).fetchall()
    assert {name for name, _, _ in rows} == {kept["trackio"]["name"]}
    numbers = [(step, json.loads(text)) for _, step, text in rows]
    losses = [(step, values["loss"]) for step, values in numbers if "loss" in values]
    assert losses == [(row["step"], row["loss"]) for row in _records(folder) if "loss" in row]
    assert numbers[-1][1]["summary/steps"] == 6


def _refusal(arguments, capsys):
    with pytest.raises(SystemExit) as exit_info:
        main(["train", *arguments])
    assert exit_info.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("name", starting.SERVICES)
def test_a_logger_that_is_not_installed_is_named_first(
    run_arguments, tmp_path, monkeypatch, capsys, name
):
    monkeypatch.setattr(starting, "_is_installed", lambda name: False)
    # Also before the model, which is not there.
    more = ["--output.loggers", f"[tensorboard, {name}]", "--model.source", "/nowhere"]
    sentence = _refusal(run_arguments(tmp_path / "run", *more), capsys)
    assert f"output.loggers has {name}, which is not installed" in sentence
    assert f'pip install "balora-jax[{name}]"' in sentence
    assert not (tmp_path / "run").exists()


def test_a_folder_of_its_name_is_no_logger(tmp_path, monkeypatch):
    (tmp_path / "balora_logger").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert not starting._is_installed("balora_logger")
    assert starting._is_installed("json")


@_needs("wandb")
def test_wandb_without_a_key_is_refused(run_arguments, tmp_path):
    environment = {name: value for name, value in os.environ.items() if "WANDB" not in name}
    environment |= {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    arguments = run_arguments(tmp_path / "run", "--output.loggers", "[wandb]")
    command = [sys.executable, str(ROOT / "train.py"), *arguments]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 2
    assert "there is no key for its server; accepted: `wandb login`" in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "value, accepted",
    [
        ("wandb", "a list, such as [a, b]"),
        ("[wandb, comet]", "a list out of tensorboard, wandb, mlflow, trackio"),
        ("[wandb, wandb]", "each at most once"),
    ],
)
def test_other_values_are_refused(run_arguments, tmp_path, capsys, value, accepted):
    sentence = _refusal(run_arguments(tmp_path / "run", "--output.loggers", value), capsys)
    assert "output.loggers is" in sentence and accepted in sentence


def test_damaged_names_are_refused_before_anything_is_loaded(run_arguments, tmp_path, capsys):
    folder = tmp_path / "run"
    arguments = run_arguments(folder, "--training.steps", "1")
    main(["train", *arguments])
    capsys.readouterr()
    for content in ("", "[]", '{"wandb": []}', '{"wandb": {"id": 1}}', "\x00"):
        (folder / "loggers.json").write_text(content)
        sentence = _refusal([*arguments, "--output.resume"], capsys)
        assert f"{folder / 'loggers.json'} cannot be read" in sentence
        assert "or none, so that the loggers begin new runs" in sentence


def test_only_process_0_starts_loggers(tmp_path, monkeypatch):
    run = types.SimpleNamespace(config=None, folder=RunFolder(str(tmp_path)))
    started = []
    monkeypatch.setattr(restoring, "start_loggers", lambda *_: started.append(1) or [])
    for process in (1, 0):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        with restoring.open_log(run, 0):
            assert len(started) == (process == 0)


def test_a_service_that_cannot_start_costs_no_run(run_arguments, tmp_path, monkeypatch, capsys):
    """The run that was to be overwritten is still there."""
    folder = tmp_path / "run"
    main(["train", *run_arguments(folder)])

    def contents():
        # The lock says since when it is held.
        files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
        return {path: path.read_bytes() for path in files}

    before = contents()

    def unreachable(start):
        raise ConnectionError("no route")

    module = types.SimpleNamespace(check=lambda: None, WandB=unreachable)
    monkeypatch.setattr(starting, "_is_installed", lambda name: True)
    monkeypatch.setattr(starting, "_module", lambda name: module)
    more = ["--output.overwrite", "--output.loggers", "[wandb]"]
    with pytest.raises(SystemExit) as stopped:
        main(["train", *run_arguments(folder, *more)])
    assert stopped.value.code == 2
    assert "wandb, which could not be started (ConnectionError: no route" in capsys.readouterr().err
    assert contents() == before
