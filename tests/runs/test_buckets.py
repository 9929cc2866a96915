"""Runs whose folders are in buckets: within the process, and on an S3 server of this machine."""

import json
import pathlib
import signal
import urllib.request

import fsspec
import numpy as np
import pytest
import s3fs
from moto.server import ThreadedMotoServer
from process_cases import Processes, losses
from safetensors.numpy import load

from balora_jax import load_run
from balora_jax.cli import main

RUN = ["--training.eval_every", "3", "--training.steps", "8", "--output.keep", "2"]
ADDRESS = "memory://bucket/run"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BALORA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def memory():
    files = fsspec.filesystem("memory")
    files.store.clear()
    yield files
    files.store.clear()


@pytest.fixture(scope="module")
def endpoint():
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(endpoint, monkeypatch):
    """The files of an S3 server, with an empty bucket."""
    urllib.request.urlopen(f"{endpoint}/moto-api/reset", data=b"").close()
    variables = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "tester",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    files = s3fs.S3FileSystem(skip_instance_cache=True, use_listings_cache=False)
    files.mkdir("bucket")
    return files


def _files(folder: pathlib.Path):
    """The names of a run's files that do not differ from run to run."""
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    return sorted(name for name in names if "ocdbt" not in name and "/d/" not in name)


def _code(*arguments):
    with pytest.raises(SystemExit) as end:
        main([*arguments])
    return end.value.code


def test_a_run_in_a_bucket_is_that_on_a_disk(run_arguments, tmp_path, memory, cache, capsys):
    local = tmp_path / "run"
    main(["train", *run_arguments(local, *RUN)])
    main(["train", *run_arguments(ADDRESS, *RUN)])
    assert f"{ADDRESS}/adapter" in capsys.readouterr().out
    copy = tmp_path / "copy"
    memory.get("/bucket/run", str(copy), recursive=True)
    names = [name for name in _files(local) if not name.startswith(("tensorboard", ".lock"))]
    assert [name for name in _files(copy) if not name.startswith("tensorboard")] == sorted(
        [*names, ".owner"]
    )
    assert losses(copy) == losses(local)
    adapters = [run / "adapter" / "adapter_model.safetensors" for run in (copy, local)]
    assert adapters[0].read_bytes() == adapters[1].read_bytes()
    assert list((cache / "runs").iterdir()) == []
    # The folder is whole where it is copied to.
    main(["train", *run_arguments(copy, *RUN), "--output.resume"])


def test_commands_read_a_run_in_a_bucket_and_write_there(
    run_arguments, tmp_path, memory, cache, capsys
):
    main(["train", *run_arguments(ADDRESS, *RUN)])
    before = set(memory.find("/bucket/run"))
    capsys.readouterr()
    main(["merge", "--run", ADDRESS])
    assert capsys.readouterr().out.strip() == f"{ADDRESS}/merged"
    added = set(memory.find("/bucket/run")) - before
    assert "/bucket/run/merged/model.safetensors" in added
    assert all(name.startswith("/bucket/run/merged/") for name in added)
    main(["generate", "--run", ADDRESS, "--prompt", "1 + 1", "--max_new_tokens", "2"])
    main(["export", "--run", ADDRESS, "--out", str(tmp_path / "adapter")])
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()
    assert load_run(ADDRESS).step == 8
    assert list((cache / "runs").iterdir()) == []
    # As a run that has ended, from its own configuration.
    main(["train", "--config", f"{ADDRESS}/config.yaml", "--output.resume"])
    assert _code("train", "--config", f"{ADDRESS}/config.yaml") == 2
    assert "--output.resume to resume that run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("other://bucket/run", "a path on this machine, or a folder in a bucket (gs://, s3://"),
        ("s3://bucket", "accepted: s3://BUCKET/FOLDER"),
        ("s3://bucket/../run", "accepted: s3://BUCKET/FOLDER"),
        ("s3:///run", "accepted: s3://BUCKET/FOLDER"),
        ("s3://other/run", "s3://other/run cannot be written to (FileNotFoundError"),
    ],
)
def test_a_bucket_that_cannot_be_used_is_refused(run_arguments, s3, address, sentence, capsys):
    assert _code("train", *run_arguments(address, *RUN)) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert sentence in errors
    assert s3.find("bucket") == []


def test_what_is_no_run_is_refused(run_arguments, memory, tmp_path, capsys):
    memory.pipe("/bucket/run/holiday.jpg", b"x")
    assert _code("train", *run_arguments(ADDRESS, *RUN)) == 2
    assert f"output.dir {ADDRESS} holds files that are no run's" in capsys.readouterr().err
    assert _code("generate", "--run", ADDRESS, "--prompt", "1") == 2
    assert f"--run {ADDRESS} is no run's folder" in capsys.readouterr().err
    assert memory.find("/bucket/run") == ["/bucket/run/holiday.jpg"]
    arguments = run_arguments(tmp_path / "run", "--data.train", "s3://bucket/train.jsonl")
    assert _code("train", *arguments) == 2
    assert "data.train 's3://bucket/train.jsonl' is an address" in capsys.readouterr().err


def test_two_processes_share_no_disk(run_arguments, tmp_path, s3):
    """One is killed after a checkpoint was sent: both end, and go on from it to the same bits."""
    mesh = ["--mesh.data", "2", "--mesh.fsdp", "2"]
    main(["train", *run_arguments(tmp_path / "one", *RUN, *mesh)])
    arguments = run_arguments("s3://bucket/runs/two", *RUN, *mesh)
    # Each has a home of its own, as hosts do.
    processes = Processes(arguments, tmp_path / "first")
    while not s3.exists("bucket/runs/two/checkpoints/4/state/manifest.ocdbt"):
        assert [process.poll() for process in processes.running] == [None, None], processes.said()
    processes.running[1].send_signal(signal.SIGKILL)
    codes, _ = processes.codes()
    assert codes[1] == -signal.SIGKILL and codes[0] not in (0, None)
    assert not s3.exists("bucket/runs/two/summary.json")

    codes, _ = Processes([*arguments, "--output.resume"], tmp_path / "second").codes()
    assert codes == [0, 0]
    copy = tmp_path / "copy"
    s3.get("bucket/runs/two", str(copy), recursive=True)
    np.testing.assert_allclose(losses(copy), losses(tmp_path / "one"), rtol=1e-5)
    assert json.loads((copy / "summary.json").read_text())["steps"] == 8
    ours, theirs = (
        load((run / "adapter" / "adapter_model.safetensors").read_bytes())
        for run in (copy, tmp_path / "one")
    )
    assert ours.keys() == theirs.keys()
    steps = {path.name for path in (copy / "checkpoints").iterdir()}
    assert steps == {"6", "8", "initial"}
