"""The requests to W&B and MLflow, against small modules in their place, and failing starts."""

import dataclasses
import importlib
import json
import sys
import types
import typing

import pytest
from record_cases import RECORD

from balora_jax.config.parse import read_config
from balora_jax.errors import BadInput
from balora_jax.reporting.loggers import starting
from balora_jax.reporting.loggers.service import Start
from balora_jax.training.run_folder import RunFolder


class Missing(Exception):
    error_code = "RESOURCE_DOES_NOT_EXIST"


class Client:
    """MLflow's client on a dictionary of runs."""

    runs: typing.ClassVar[dict] = {}

    def get_experiment_by_name(self, name):
        return None

    def create_experiment(self, name):
        self.experiment = name
        return "7"

    def create_run(self, experiment, run_name, tags):
        run = types.SimpleNamespace(metrics=[], params={}, status="RUNNING", name=run_name)
        self.runs[f"run{len(self.runs)}"] = run
        return types.SimpleNamespace(info=types.SimpleNamespace(run_id=f"run{len(self.runs) - 1}"))

    def log_batch(self, run_id, metrics=(), params=()):
        assert len(metrics) <= 1000 and len(params) <= 100
        self.runs[run_id].metrics += metrics
        self.runs[run_id].params |= {param.key: param.value for param in params}

    def update_run(self, run_id, status):
        if run_id not in self.runs:
            raise Missing(f"no {run_id}")
        self.runs[run_id].status = status

    def get_metric_history(self, run_id, name):
        return [metric for metric in self.runs[run_id].metrics if metric.key == name]

    def set_terminated(self, run_id, status):
        self.runs[run_id].status = status


class Run:
    """W&B's run, which has the steps before `step`."""

    def __init__(self, step):
        self.step = step
        self.logged = []
        self.summary = {}

    def log(self, values, step):
        self.logged.append((step, values))

    def finish(self, exit_code):
        self.exit_code = exit_code


def _module(monkeypatch, name, **attributes):
    module = types.ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None, origin="here")
    vars(module).update(attributes)
    monkeypatch.setitem(sys.modules, name, module)
    return module


@pytest.fixture
def fake_mlflow(monkeypatch):
    """The module of the logger, with MLflow's client replaced."""
    Metric = dataclasses.make_dataclass("Metric", ["key", "value", "timestamp", "step"])
    Param = dataclasses.make_dataclass("Param", ["key", "value"])
    monkeypatch.setattr(Client, "runs", {})
    _module(
        monkeypatch,
        "mlflow",
        MlflowClient=Client,
        exceptions=types.SimpleNamespace(MlflowException=Missing),
        get_tracking_uri=lambda: "http://server",
    )
    _module(monkeypatch, "mlflow.entities", Metric=Metric, Param=Param)
    yield from _imported(monkeypatch, "mlflow")


@pytest.fixture
def fake_wandb(monkeypatch):
    """The module of the logger, with W&B replaced; its runs have three steps."""
    module = _module(monkeypatch, "wandb", started=[], Settings=dict)

    def init(**options):
        module.started.append(options)
        return Run(step=3)

    module.init = init
    yield from _imported(monkeypatch, "wandb")


def _imported(monkeypatch, name):
    path = f"balora_jax.reporting.loggers.{name}"
    monkeypatch.delitem(sys.modules, path, raising=False)
    yield importlib.import_module(path)
    # The next test may have the real one.
    sys.modules.pop(path)


@pytest.fixture
def start(run_arguments, tmp_path):
    """identity -> a start, and the list of what it keeps."""
    config = read_config(run_arguments(tmp_path / "a run"))

    def make(identity=None):
        kept = []
        return Start(RunFolder(config.output.dir), config, identity, kept.append), kept

    return make


def test_mlflow_gets_options_records_and_the_end(fake_mlflow, start):
    first, kept = start()
    service = fake_mlflow.MLflow(first)
    assert kept == [{"run_id": "run0"}]
    service.send([(1, {"loss": 2.0, "set:a/f1": 0.5}), (2, {"loss": 1.0})])
    service.finish("finished", {"steps": 2, "loss_last": 1.0, "model": "m", "metrics": {"f1": 1}})
    run = Client.runs["run0"]
    assert run.name == "a run" and run.status == "FINISHED" and run.params["adapter.rank"] == "4"
    sent = [(metric.key, metric.value, metric.step) for metric in run.metrics]
    assert sent[:3] == [("loss", 2.0, 1), ("set_a/f1", 0.5, 1), ("loss", 1.0, 2)]
    assert ("summary/loss_last", 1.0, 2) in sent and ("summary/metrics.f1", 1.0, 2) in sent


def test_mlflow_goes_on_after_what_it_has(fake_mlflow, start):
    first, kept = start()
    fake_mlflow.MLflow(first).send([(step, {"loss": 1.0}) for step in (1, 2, 3)])
    again, nothing = start(kept[0])
    service = fake_mlflow.MLflow(again)
    service.send([(step, {"loss": 1.0}) for step in (2, 3, 4)])
    assert [metric.step for metric in Client.runs["run0"].metrics] == [1, 2, 3, 4]
    assert nothing == [] and len(Client.runs) == 1
    service.finish("stopped", None)
    assert Client.runs["run0"].status == "KILLED"


def test_mlflow_takes_many_records_in_parts(fake_mlflow, start):
    service = fake_mlflow.MLflow(start()[0])
    service.send([(step, {f"m{i}": 1.0 for i in range(60)}) for step in range(50)])
    assert len(Client.runs["run0"].metrics) == 3000


def test_an_mlflow_run_that_is_not_there_is_refused(fake_mlflow, start):
    with pytest.raises(BadInput, match="names the MLflow run gone, which http://server does not"):
        fake_mlflow.MLflow(start({"run_id": "gone"})[0])


def test_wandb_keeps_its_id_before_it_starts(fake_wandb, start, monkeypatch):
    first, kept = start()
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    service = fake_wandb.WandB(first)
    (options,) = sys.modules["wandb"].started
    assert kept == [{"id": options["id"], "project": "mine"}]
    assert options["resume"] == "allow" and options["config"]["adapter"]["rank"] == 4
    # W&B has the steps 0 to 2.
    service.send([(step, {"loss": 1.0}) for step in (2, 3, 4)])
    service.finish("finished", {"steps": 4, "terms": {"a": [1, 2]}})
    assert [step for step, _ in service._run.logged] == [3, 4]
    assert service._run.summary == {"summary/steps": 4, "summary/terms.a": [1, 2]}
    assert service._run.exit_code == 0
    fake_wandb.WandB(start(kept[0])[0])
    assert sys.modules["wandb"].started[1]["id"] == options["id"]


def test_a_killed_start_leaves_the_id_that_the_next_one_uses(
    fake_wandb, run_arguments, tmp_path, monkeypatch
):
    config = read_config(run_arguments(tmp_path, "--output.loggers", "[wandb]"))
    folder = RunFolder(str(tmp_path))

    def fail(**options):
        raise ConnectionError("no network")

    working = sys.modules["wandb"].init
    monkeypatch.setattr(sys.modules["wandb"], "init", fail)
    with pytest.raises(BadInput, match=r"wandb, which could not be started \(ConnectionError: no"):
        starting.start_loggers(config, folder, 0)
    kept = json.loads(folder.loggers.read_text())
    monkeypatch.setattr(sys.modules["wandb"], "init", working)
    (logger,) = starting.start_loggers(config, folder, 0)
    logger.write(RECORD.step, {"loss": RECORD.loss})
    logger.close("finished", None)
    assert json.loads(folder.loggers.read_text()) == kept
    assert sys.modules["wandb"].started[-1]["id"] == kept["wandb"]["id"]


def test_a_library_that_fails_to_be_imported_is_named(monkeypatch):
    monkeypatch.setattr(starting, "_is_installed", lambda name: True)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.delitem(sys.modules, "balora_jax.reporting.loggers.mlflow", raising=False)
    with pytest.raises(BadInput, match=r"output.loggers has mlflow, which cannot be used"):
        starting.check_loggers(["tensorboard", "mlflow"])
