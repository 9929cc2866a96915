"""Runs whose folders are in buckets: within the process, and on an S3 server of this machine."""

import json
import pathlib
import signal
import urllib.request

import numpy as np
import pytest
import s3fs
from moto.server import ThreadedMotoServer
from process_cases import Processes, losses
from safetensors.numpy import load

from balora_jax import load_run
from balora_jax.cli import main
from balora_jax.config import addresses

RUN = ["--training.eval_every", "3", "--training.steps", "8", "--output.keep", "2"]
ADDRESS = "memory://bucket/run"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BALORA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def memory(memory_files, monkeypatch):
    """The files of buckets within the process, which the command line knows for a test alone."""
    monkeypatch.setitem(addresses.LIBRARIES, "memory", "fsspec")
    return memory_files


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
        ("other://bucket/run", "on this machine, or the address of one in a bucket (gs://, s3://"),
        ("memory://bucket/run", "on this machine, or the address of one in a bucket (gs://, s3://"),
        ("s3://bucket", "accepted: s3://BUCKET/NAME"),
        ("s3://bucket/../run", "accepted: s3://BUCKET/NAME"),
        ("s3://bucket/run//", "accepted: s3://BUCKET/NAME"),
        ("s3://bucket/run::memory://x", "accepted: s3://BUCKET/NAME"),
        ("s3://bucket/run?versionId=1", "accepted: s3://BUCKET/NAME"),
        ("s3://a:b@bucket/run", "accepted: s3://BUCKET/NAME"),
        ("s3://bucket/" + 1100 * "a", "each name of at most 150 characters"),
        ("s3:///run", "accepted: s3://BUCKET/NAME"),
        ("s3://other/run", "s3://other/run cannot be written to (FileNotFoundError"),
    ],
)
def test_a_bucket_that_cannot_be_used_is_refused(
    run_arguments, s3, address, sentence, cache, capsys
):
    assert _code("train", *run_arguments(address, *RUN)) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert sentence in errors
    assert s3.find("bucket") == []
    assert not any((cache / "runs").glob("*"))


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


def test_a_copied_run_is_not_taken_for_the_original(run_arguments, memory, capsys):
    main(["train", *run_arguments(ADDRESS, *RUN)])
    memory.copy("/bucket/run", "/bucket/copied", recursive=True)
    config = "memory://bucket/copied/config.yaml"
    assert _code("train", "--config", config, "--output.resume") == 2
    sentence = f"{config} is of the run in memory://bucket/copied, and output.dir is {ADDRESS}"
    assert sentence in capsys.readouterr().err


def test_a_damaged_file_is_named_by_its_address(run_arguments, memory, capsys):
    memory.pipe("/bucket/run/config.yaml", b"\x00\xff junk: [")
    assert _code("generate", "--run", ADDRESS, "--prompt", "1") == 2
    assert f"{ADDRESS}/config.yaml cannot be read" in capsys.readouterr().err
    assert _code("train", *run_arguments(ADDRESS, *RUN), "--output.resume") == 2
    assert f"{ADDRESS}/config.yaml cannot be read" in capsys.readouterr().err


def test_two_processes_share_no_disk(run_arguments, tmp_path, s3):
    """One is killed after a checkpoint was sent: both end, and go on from it to the same losses.

    The exported checkpoint is the best, which process 1 reads from the bucket.
    """
    options = [*RUN, "--mesh.data", "2", "--mesh.fsdp", "2", "--training.patience", "5"]
    main(["train", *run_arguments(tmp_path / "one", *options)])
    arguments = run_arguments("s3://bucket/runs/two", *options)
    # Each has a home of its own, as hosts do.
    homes = [{"BALORA_CACHE": str(tmp_path / name)} for name in ("home", "other home")]
    processes = Processes(arguments, tmp_path / "first", own=homes)
    while not s3.exists("bucket/runs/two/checkpoints/4/state/manifest.ocdbt"):
        assert [process.poll() for process in processes.running] == [None, None], processes.said()
    processes.running[1].send_signal(signal.SIGKILL)
    codes, _ = processes.codes()
    assert codes[1] == -signal.SIGKILL and codes[0] not in (0, None)
    assert not s3.exists("bucket/runs/two/summary.json")

    again = Processes([*arguments, "--output.resume"], tmp_path / "second", own=homes)
    codes, _ = again.codes()
    assert codes == [0, 0], again.said()
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
    assert {"8", "initial"} <= steps
    assert [list((tmp_path / name / "runs").iterdir()) for name in ("home", "other home")] == [
        [],
        [],
    ]

    anew = [*arguments, "--training.steps", "2", "--output.overwrite"]
    third = Processes(anew, tmp_path / "third", own=homes)
    codes, _ = third.codes()
    assert codes == [0, 0], third.said()
    s3.get("bucket/runs/two", str(tmp_path / "anew"), recursive=True)
    steps = {path.name for path in (tmp_path / "anew" / "checkpoints").iterdir()}
    assert steps == {"2", "initial"}
    # The update after the first one has the rate of a shorter run.
    np.testing.assert_allclose(losses(tmp_path / "anew")[:2], losses(copy)[:2], rtol=1e-5)
