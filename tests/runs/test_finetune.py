"""Whole runs of a tiny model: outputs, interruption, resuming, export and merging."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from balora_jax import data
from balora_jax.cli import main
from balora_jax.config.parse import read_config
from balora_jax.errors import BadInput
from balora_jax.runs.finetune import finetune
from balora_jax.training.checkpoints import Checkpoints

ROOT = pathlib.Path(__file__).parents[2]


def _records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def _losses(folder):
    return [record["loss"] for record in _records(folder) if "loss" in record]


def _adapter(folder):
    return load_file(folder / "adapter" / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def finished(run_arguments, tmp_path_factory):
    """A finished BA-LoRA run with a merged folder."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    summary = finetune(
        read_config(run_arguments(folder, "--output.merge", "true", "--training.eval_every", "3"))
    ).summary
    return folder, summary


def test_run_folder_is_complete(finished):
    folder, summary = finished
    assert {path.name for path in folder.iterdir()} >= {
        "config.yaml", "metrics.jsonl", "summary.json", "tensorboard", "checkpoints", "adapter",
        "merged",
    }  # fmt: skip
    records = [record for record in _records(folder) if "loss" in record]
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5, 6]
    expected = {
        "task",
        "consistency",
        "diversity",
        "svd",
        "weight_svd",
        "learning_rate",
        "tokens_per_second",
    }
    assert expected <= set(records[0])
    assert [record["step"] for record in _records(folder) if "eval_loss" in record] == [0, 3, 6]
    assert summary.to_json() == json.loads((folder / "summary.json").read_text())
    assert summary.loss_last < summary.loss_first
    assert summary.eval_loss_last < summary.eval_loss_first


def test_step_0_is_the_pretrained_model(finished):
    folder, _ = finished
    assert 0 <= abs(_records(folder)[1]["consistency"]) < 1e-6


def test_checkpoints_hold_no_frozen_weight(finished, tiny_llama):
    """No stored array has the name or the shape of a base kernel."""
    folder, _ = finished
    shapes = set()
    for path in (folder / "checkpoints").rglob("_METADATA"):
        text = path.read_text()
        shapes |= {
            tuple(json.loads(shape)) for shape in re.findall(r'"write_shape": (\[[\d, ]*\])', text)
        }
        assert not re.search(r"kernel|embedding|scale", text)
    assert shapes
    kernels = {leaf.shape for leaf in load_file(tiny_llama / "model.safetensors").values()}
    assert not {shape[-2:] for shape in shapes} & kernels


def _held_out_nll(model, config, tokenizer):
    """The negative log-likelihood in PyTorch, as a mean over counted tokens."""
    examples = data.prepare(config.data, tokenizer, split="eval")
    total = 0
    count = 0
    length = data.padded_length(examples, max_length=64)
    for _, batch in data.eval_batches(examples, data.given_order(examples, 4), [length]):
        with torch.no_grad():
            ids = torch.tensor(batch.input_ids).long()
            mask = torch.tensor(batch.attention_mask).long()
            logits = model(input_ids=ids, attention_mask=mask).logits.log_softmax(-1)
        chosen = logits.gather(-1, torch.tensor(batch.targets).long()[..., None])[..., 0]
        counted = torch.tensor(batch.mask)
        total -= chosen[counted].sum().item()
        count += int(counted.sum())
    return total / count


@pytest.mark.parametrize("kind", ["adapter", "merged"])
def test_pytorch_gives_the_same_held_out_loss(finished, run_arguments, tiny_llama, kind):
    folder, summary = finished
    if kind == "merged":
        model = AutoModelForCausalLM.from_pretrained(folder / "merged", dtype=torch.float32)
    else:
        base = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
        model = PeftModel.from_pretrained(base, folder / "adapter")
    config = read_config(run_arguments(folder))
    loss = _held_out_nll(model, config, data.load_tokenizer(str(tiny_llama)))
    np.testing.assert_allclose(loss, summary.eval_loss_last, rtol=1e-5)


@pytest.mark.parametrize("form", ["delta", "residual"])
@pytest.mark.parametrize("method", ["lora", "pissa", "ba-lora", "full"])
def test_every_method_reduces_the_loss(run_arguments, tmp_path, method, form):
    if method == "full" and form == "residual":
        pytest.skip("full fine-tuning has no adapter form")
    init = [] if method in ("pissa", "ba-lora") else ["--adapter.init", "null"]
    arguments = run_arguments(tmp_path / "run", "--method", method, "--adapter.form", form, *init)
    summary = finetune(read_config(arguments)).summary
    assert summary.loss_last < summary.loss_first
    assert ("consistency" in _records(tmp_path / "run")[1]) == (method == "ba-lora")
    assert (tmp_path / "run" / "merged").exists() == (method == "full")


@pytest.mark.parametrize("form", ["delta", "residual"])
def test_lora_ga_starts_from_the_first_batch(run_arguments, tmp_path, form):
    """The run starts at the base's loss, reduces it, and resumes from the same start."""
    start = ["--adapter.init", "lora_ga", "--adapter.form", form, "--training.eval_every", "3"]
    summary = finetune(read_config(run_arguments(tmp_path / "run", *start))).summary
    base = finetune(read_config(run_arguments(tmp_path / "base", "--training.steps", "1"))).summary
    np.testing.assert_allclose(summary.eval_loss_first, base.eval_loss_first, rtol=1e-5)
    assert summary.eval_loss_last < summary.eval_loss_first
    adapter = _adapter(tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "6")
    (tmp_path / "run" / "summary.json").unlink()
    finetune(read_config(run_arguments(tmp_path / "run", *start, "--output.resume", "true")))
    for name, tensor in _adapter(tmp_path / "run").items():
        np.testing.assert_array_equal(tensor, adapter[name])


def test_both_forms_of_pissa_agree(run_arguments, tmp_path):
    """The residual form is the same function of the same adapters, up to rounding."""
    for form in ("delta", "residual"):
        finetune(read_config(run_arguments(tmp_path / form, "--adapter.form", form)))
    np.testing.assert_allclose(
        _losses(tmp_path / "delta"), _losses(tmp_path / "residual"), rtol=1e-4
    )


def test_eight_devices_give_the_losses_of_one(finished, run_arguments, tmp_path):
    """And a run that is stopped there goes on on one, or on four."""
    folder, _ = finished
    eight = ["--mesh.data", "2", "--mesh.fsdp", "2", "--mesh.tensor", "2"]
    config = read_config(run_arguments(tmp_path / "run", *eight))
    assert finetune(config, callbacks=[lambda record: record.step == 4]) is None
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    for name, mesh in {"run": [], "copy": ["--mesh.data", "1", "--mesh.fsdp", "4"]}.items():
        arguments = run_arguments(tmp_path / name, *mesh, "--output.resume", "true")
        finetune(read_config(arguments))
        np.testing.assert_allclose(_losses(tmp_path / name), _losses(folder), rtol=1e-5)


def test_training_continues_from_a_peft_adapter(finished, run_arguments, tmp_path):
    folder, summary = finished
    arguments = run_arguments(tmp_path / "run", "--adapter.init", str(folder / "adapter"))
    again = finetune(read_config(arguments)).summary
    np.testing.assert_allclose(again.eval_loss_first, summary.eval_loss_last, rtol=1e-5)
    assert again.eval_loss_last < again.eval_loss_first


def _environment():
    return os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}


def _start(arguments):
    command = [sys.executable, "train.py", *arguments]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _wait_for_checkpoint(folder, process, timeout=120):
    deadline = time.monotonic() + timeout
    while not any(path.name.isdecimal() for path in folder.glob("checkpoints/*")):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.01)


def test_killed_and_resumed_is_bit_identical(run_arguments, tmp_path):
    """A run killed after its first checkpoint resumes to the adapter of an unbroken run."""
    many = ["--training.steps", "24", "--adapter.dropout", "0.1"]
    assert _start(run_arguments(tmp_path / "whole", *many)).wait() == 0
    process = _start(run_arguments(tmp_path / "killed", *many))
    _wait_for_checkpoint(tmp_path / "killed", process)
    process.kill()
    process.wait()
    assert not (tmp_path / "killed" / "summary.json").exists(), "it ended before it was killed"
    assert _start(run_arguments(tmp_path / "killed", *many, "--output.resume", "true")).wait() == 0
    whole = _adapter(tmp_path / "whole")
    resumed = _adapter(tmp_path / "killed")
    assert whole.keys() == resumed.keys()
    for name in whole:
        np.testing.assert_array_equal(whole[name], resumed[name])
    assert _losses(tmp_path / "whole") == _losses(tmp_path / "killed")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_saves_a_checkpoint_to_resume_from(run_arguments, tmp_path, number):
    process = _start(
        run_arguments(tmp_path / "run", "--training.steps", "100000", "--output.save_every", "50")
    )
    _wait_for_checkpoint(tmp_path / "run", process)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    # Not 0: in `train && merge` nothing must follow a run that is not done.
    assert process.returncode == 128 + number, err
    done = int(re.search(r"stopped after step (\d+) of 100000", out)[1])
    assert f"--config {tmp_path / 'run' / 'config.yaml'} --output.resume" in out
    assert Checkpoints(tmp_path / "run" / "checkpoints", 2).latest() == done
    assert len(_losses(tmp_path / "run")) == done


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_before_the_first_update_is_named(run_arguments, tmp_path, number):
    process = _start(run_arguments(tmp_path / "run"))
    # The counts of the data sets are printed while the run is prepared.
    while "train:" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number, errors
    assert f"balora: stopped by {number.name} before the first update" in errors


def test_export_and_merge_from_a_run(finished, tmp_path, capsys):
    folder, _ = finished
    main(["export", "--run", str(folder), "--out", str(tmp_path / "adapter")])
    again = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    for name, tensor in _adapter(folder).items():
        np.testing.assert_array_equal(tensor, again[name])
    main(["merge", "--run", str(folder), "--out", str(tmp_path / "merged")])
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    written = load_file(folder / "merged" / "model.safetensors")
    for name, tensor in written.items():
        np.testing.assert_array_equal(tensor, merged[name])


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda text: text + "GARBAGE\n", r"line \d+ is no record of a run \(JSONDecodeError"),
        (lambda text: text + '{"foo": 1}\n', r"line \d+ is no record of a run \(KeyError"),
        (lambda text: text + "[1]\n", r"line \d+ is no record of a run \(TypeError"),
        (
            lambda text: "",
            "has no record of update 1 .6 are missing., which the end of this run needs",
        ),
    ],
)
def test_a_damaged_log_is_refused(finished, run_arguments, tmp_path, damage, sentence):
    """Before anything is written."""
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    log = folder / "metrics.jsonl"
    log.write_text(damage(log.read_text()))
    (folder / ".lock").unlink()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    resumed = ["--config", str(folder / "config.yaml"), "--output.resume", "true"]
    with pytest.raises(BadInput, match=sentence):
        finetune(read_config([*resumed, "--output.dir", str(folder)]))
    (folder / ".lock").unlink()
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    assert after == before


@pytest.fixture
def logged_compiles():
    """Log compilations in all threads, of which one compiles the steps."""
    jax.config.update("jax_log_compiles", True)
    yield
    jax.config.update("jax_log_compiles", False)


def test_one_compilation_of_the_step(run_arguments, tmp_path, caplog, logged_compiles):
    # A rank of its own: programs of the same shapes are shared by the runs of a process.
    arguments = run_arguments(tmp_path / "run", "--adapter.rank", "3")
    with caplog.at_level("WARNING"):
        finetune(read_config(arguments))
    compiled = [
        r
        for r in caplog.messages
        if re.match(r"Finished XLA compilation of jit\((step|_batch_loss)\)", r)
    ]
    assert len(compiled) == 2, "the update and the evaluation, once each"


@pytest.mark.parametrize("scale", ["0", "0.6"])
def test_a_part_of_the_change_is_exported(finished, tmp_path, scale):
    folder, _ = finished
    for command in ("export", "merge"):
        out = str(tmp_path / command)
        main([command, "--run", str(folder), "--scale", scale, "--out", out])
    whole = _adapter(folder)
    part = load_file(tmp_path / "export" / "adapter_model.safetensors")
    for name, tensor in whole.items():
        expected = tensor * np.float32(scale) if ".lora_B." in name else tensor
        np.testing.assert_array_equal(part[name], expected)
    card = (tmp_path / "export" / "README.md").read_text()
    assert f"; {scale} of the change is kept" in card and "not measured after" in card
    merged = load_file(tmp_path / "merge" / "model.safetensors")
    tuned = load_file(folder / "merged" / "model.safetensors")
    changed = [name for name in tuned if not np.array_equal(tuned[name], merged[name])]
    assert changed and all("proj" in name for name in changed)


def test_the_change_is_compressed_to_a_rank(finished, tiny_llama, tmp_path, capsys):
    folder, _ = finished
    kept = []
    for rank in (8, 4, 1):
        out = tmp_path / str(rank)
        main(["export", "--run", str(folder), "--rank", str(rank), "--out", str(out)])
        error = float(re.search(rf"rank {rank} of 8: ([\d.]+)% of the", capsys.readouterr().err)[1])
        tensors = load_file(out / "adapter_model.safetensors")
        whole = _adapter(folder)
        lost = changed = 0.0
        for name in (name for name in whole if ".lora_A." in name):
            other = name.replace(".lora_A.", ".lora_B.")
            before = np.float64(whole[other]) @ whole[name]
            after = np.float64(tensors[other]) @ tensors[name]
            assert len(tensors[name]) == rank
            lost += np.sum((before - after) ** 2)
            changed += np.sum(before**2)
        assert error == pytest.approx(100 * np.sqrt(lost / changed), abs=0.006)
        kept.append(error)
        assert json.loads((out / "adapter_config.json").read_text())["r"] == rank
        card = (out / "README.md").read_text()
        assert f"A plain LoRA of rank {rank}" in card and "not measured after" in card
        base = AutoModelForCausalLM.from_pretrained(tiny_llama)
        assert PeftModel.from_pretrained(base, out).peft_config["default"].r == rank
    assert kept == sorted(kept) and kept[0] < 0.01 < kept[-1]


def test_the_adapter_has_its_tokenizer(finished, tiny_llama):
    """Servers such as vLLM load it from there."""
    folder, _ = finished
    texts = ["1+2=", "a b"]
    of_adapter = AutoTokenizer.from_pretrained(folder / "adapter")
    assert of_adapter(texts).input_ids == AutoTokenizer.from_pretrained(tiny_llama)(texts).input_ids


@pytest.mark.parametrize(
    ("more", "match"),
    [
        (["--scale", "-1", "--out", "x"], "--scale is -1.0; accepted: a number from 0 to 10"),
        (["--scale", "nan", "--out", "x"], "scale is 'nan'; accepted: a number"),
        (["--scale", "0.5"], "another model than the run's; accepted: with --out DIR"),
        (["--rank", "2"], "another adapter than the run's; accepted: with --out DIR"),
        (["--rank", "0", "--out", "x"], "--rank is 0; accepted: a whole number from 1"),
        (["--rank", "9", "--out", "x"], "--rank is 9, and the adapter has 8; accepted: at most 8"),
    ],
)
def test_parts_that_are_refused(finished, capsys, more, match):
    with pytest.raises(SystemExit) as exit_info:
        main(["export", "--run", str(finished[0]), *more])
    assert exit_info.value.code == 2 and match in capsys.readouterr().err
