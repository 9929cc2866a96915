"""A run in several processes on one machine, which talk to each other as hosts do."""

import json
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from classification_cases import letter_arguments, letter_rows, save_model, write_rows
from process_cases import Processes, free_port, losses
from safetensors.numpy import load_file

from balora_jax.cli import main
from balora_jax.config import MeshConfig
from balora_jax.errors import BadInput

MESH = ["--mesh.data", "2", "--mesh.fsdp", "2"]
RUN = [*MESH, "--training.eval_every", "3", "--training.steps", "8"]


def test_two_processes_train_as_one(run_arguments, tmp_path):
    """One gets SIGTERM: both stop with one checkpoint, and go on to the same numbers.

    That checkpoint is damaged meanwhile: both go on from the one before.
    """
    expected = tmp_path / "one"
    main(["train", *run_arguments(expected, *RUN)])
    folder = tmp_path / "two"
    arguments = run_arguments(folder, *RUN)
    processes = Processes(arguments, tmp_path / "first")
    processes.wait_for(folder / "metrics.jsonl", 5)
    processes.running[1].send_signal(signal.SIGTERM)
    codes, printed = processes.codes()
    assert codes == [143, 143], processes.said()
    assert "step" not in printed
    assert len(losses(folder)) < len(losses(expected))

    *_, last = sorted(int(path.name) for path in (folder / "checkpoints").glob("[0-9]*"))
    numbers = max((folder / "checkpoints" / str(last)).rglob("d/*"), key=lambda path: path.name)
    numbers.write_bytes(b"damaged")
    again = Processes([*arguments, "--output.resume"], tmp_path / "second")
    codes, _ = again.codes()
    assert codes == [0, 0], again.said()
    assert [path.name for path in (folder / "damaged").iterdir()] == [f"checkpoint-{last}"]
    shutil.rmtree(folder / "damaged")
    np.testing.assert_allclose(losses(folder), losses(expected), rtol=1e-5)
    ours, theirs = (
        load_file(path / "adapter" / "adapter_model.safetensors") for path in (folder, expected)
    )
    assert ours.keys() == theirs.keys()
    for name in ours:
        if "lora_A" in name:
            left, right = name.replace("lora_A", "lora_B"), name
            product = theirs[left] @ theirs[right]
            np.testing.assert_allclose(
                ours[left] @ ours[right], product, atol=1e-5 * np.abs(product).max()
            )
    names = [sorted(path.name for path in run.iterdir()) for run in (folder, expected)]
    assert names[0] == names[1]


def test_two_processes_train_a_classifier_as_one(tmp_path):
    """Its teacher's outputs come from a head that no host has whole; patience ends both."""
    for name, (number, seed) in {"train": (200, 0), "eval": (60, 1)}.items():
        write_rows(tmp_path / f"{name}.jsonl", letter_rows(number, seed))
    save_model("bert", tmp_path / "bert")
    more = ["--mesh.fsdp", "4", "--training.steps", "12", "--training.eval_every", "3"]
    more += ["--training.patience", "2", "--output.merge", "true"]
    folders = [tmp_path / "one", tmp_path / "two"]
    one, two = (letter_arguments(tmp_path, folder, *more) for folder in folders)
    main(["train", *one])
    processes = Processes(two, tmp_path / "log")
    codes, _ = processes.codes()
    assert codes == [0, 0], processes.said()
    assert len(losses(folders[0])) == len(losses(folders[1])) < 12 + 5
    np.testing.assert_allclose(losses(folders[1]), losses(folders[0]), rtol=1e-5)
    theirs, ours = (load_file(folder / "merged" / "model.safetensors") for folder in folders)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        np.testing.assert_allclose(ours[name], tensor, atol=1e-5 * np.abs(tensor).max())


def test_the_quickstart_of_two_processes_measures_the_model(tmp_path):
    """As docs/pods.md has it: the probes read results that no process has whole."""
    folder = tmp_path / "two"
    arguments = ["--output.dir", str(folder), "--training.steps", "2", *MESH]
    processes = Processes(arguments, tmp_path / "log", name="quickstart")
    codes, _ = processes.codes()
    assert codes == [0, 0], processes.said()
    summary = json.loads((folder / "summary.json").read_text())
    # As the embedded model is, also in one process.
    assert summary["probes"]["facts_known"][0] == pytest.approx(0.85, abs=0.01)
    assert not any("rematerialization" in path.read_text() for path in processes.errors)


def test_processes_of_different_runs_refuse(run_arguments, tmp_path):
    arguments = run_arguments(tmp_path / "run", *MESH)
    processes = Processes(arguments, tmp_path / "log", ["--optimizer.learning_rate", "0.5"])
    codes, _ = processes.codes()
    assert codes == [2, 2]
    sentence = "have not the same configuration (optimizer): process 1 differs from process 0"
    assert all(sentence in path.read_text() for path in processes.errors)
    assert not (tmp_path / "run").exists()


def test_a_folder_that_hosts_do_not_share_is_noticed(run_arguments, tmp_path):
    places = [tmp_path / name for name in ("first", "second")]
    for place in places:
        place.mkdir()
    processes = Processes(run_arguments("run", *MESH), tmp_path / "log", places=places)
    codes, _ = processes.codes()
    assert codes == [2, 2]
    sentence = "output.dir run is another folder on some hosts; accepted: one that all hosts see"
    assert all(sentence in path.read_text() for path in processes.errors)


@pytest.mark.parametrize("number", ["0", "1"])
def test_processes_that_never_come_are_given_up(run_arguments, tmp_path, number):
    together = ["--mesh.coordinator", f"localhost:{free_port()}", "--mesh.processes", "2"]
    arguments = run_arguments(tmp_path / "run", *MESH, *together, "--mesh.wait", "2")
    command = [sys.executable, "-m", "balora_jax", "train", *arguments, "--mesh.process_id", number]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    sentence = done.stderr.splitlines()[-1]
    assert sentence.startswith("balora: the 2 processes of the run did not meet at localhost:")
    assert "within 2 seconds" in sentence and "mesh.wait for more" in sentence
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"coordinator": "here:1"}, "mesh.coordinator is 'here:1'; accepted: null, or with all of"),
        ({"coordinator": "here", "processes": 2, "process_id": 0}, "accepted: HOST:PORT"),
        ({"coordinator": "here:0", "processes": 2, "process_id": 0}, "accepted: HOST:PORT"),
        ({"coordinator": "::1:65536", "processes": 2, "process_id": 0}, "accepted: HOST:PORT"),
        ({"coordinator": "here:1", "processes": 2, "process_id": 2}, "accepted: 0 to 1"),
        ({"coordinator": "here:1", "processes": 0, "process_id": 0}, "mesh.processes is 0"),
        ({"wait": 0}, "mesh.wait is 0; accepted: 1 to 86,400 seconds"),
    ],
)
def test_processes_that_are_not_described(options, sentence):
    with pytest.raises(BadInput) as raised:
        MeshConfig(**options)
    assert sentence in str(raised.value)


def test_processes_are_no_part_of_a_run():
    described = {"coordinator": "here:1", "processes": 2}
    first, second = (MeshConfig(**described, process_id=number) for number in range(2))
    assert first.shared == second.shared and first.joins and not MeshConfig().joins
