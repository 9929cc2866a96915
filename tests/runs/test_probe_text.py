"""evaluation.probe_text: drift during training, which changes no bit of it."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from balora_jax.cli import main
from balora_jax.config.parse import read_config
from balora_jax.errors import BadInput
from balora_jax.evaluation.inheritance.drift import _compare_batch
from balora_jax.runs.finetune import finetune

NAMES = ["text_kl", "text_agreement", "text_entropy", "text_loss", "text_effective_rank"]
SETTINGS = ["--training.eval_every", "2"]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "general.txt"
    path.write_text("1+1=2 and more\n\na longer passage of text, with letters\n\nx\n")
    return path


@pytest.fixture(scope="module")
def probed(run_arguments, text, tmp_path_factory):
    """A run with a probe text."""
    folder = tmp_path_factory.mktemp("probed") / "run"
    more = ["--evaluation.probe_text", str(text), *SETTINGS]
    finetune(read_config(run_arguments(folder, *more)))
    return folder


def _evaluations(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if "eval_loss" in record]


def _adapter(folder):
    return load_file(folder / "adapter" / "adapter_model.safetensors")


def test_every_evaluation_measures_the_drift(probed):
    records = _evaluations(probed)
    assert [record["step"] for record in records] == [0, 2, 4, 6]
    assert all(f"eval_{name}" in record for record in records for name in NAMES)
    first, *later = records
    assert (first["eval_text_kl"], first["eval_text_agreement"]) == (0, 1)
    assert all(record["eval_text_kl"] > 0 for record in later)
    assert all(0 <= record["eval_text_agreement"] <= 1 for record in later)


def test_the_probe_changes_no_bit_of_the_training(probed, run_arguments, tmp_path):
    finetune(read_config(run_arguments(tmp_path, *SETTINGS)))
    plain = _adapter(tmp_path)
    for name, array in _adapter(probed).items():
        np.testing.assert_array_equal(array, plain[name])
    losses = [[record["eval_loss"] for record in _evaluations(run)] for run in (probed, tmp_path)]
    assert losses[0] == losses[1]


def test_the_last_measures_are_those_of_an_audit(probed, text, tmp_path):
    """The audit measures the exported checkpoint by another path, from the untouched base."""
    main(["audit", "--run", str(probed), "--text", str(text), "--out", str(tmp_path / "audit")])
    [run] = json.loads((tmp_path / "audit" / "audit.json").read_text())["runs"]
    last = _evaluations(probed)[-1]
    expected = {
        "text_kl": run["drift"]["forward"]["value"],
        "text_agreement": run["drift"]["agreement"]["value"],
        "text_entropy": run["drift"]["entropy_after"]["value"],
        "text_loss": run["drift"]["loss_after"]["value"],
        "text_effective_rank": run["after"]["ranks"]["hidden"],
    }
    for name, value in expected.items():
        assert last[f"eval_{name}"] == pytest.approx(value, rel=1e-4), name


def test_the_residual_form_starts_at_the_base(run_arguments, text, tmp_path):
    more = ["--evaluation.probe_text", str(text), "--adapter.form", "residual"]
    finetune(read_config(run_arguments(tmp_path, *more, "--training.steps", "2")))
    first = _evaluations(tmp_path)[0]
    assert first["eval_text_kl"] == pytest.approx(0, abs=1e-6)


def test_the_numbers_are_shown_and_kept(probed, capsys):
    summary = json.loads((probed / "summary.json").read_text())
    assert set(NAMES) <= set(summary["metrics"])
    assert (probed / "plots" / "probe_text.png").stat().st_size > 0
    assert not (probed / "plots" / "metrics.png").exists()
    assert "| text_kl |" in (probed / "adapter" / "README.md").read_text()
    [events] = (probed / "tensorboard").iterdir()
    assert b"text_kl" in events.read_bytes()


def test_all_evaluations_share_one_program(run_arguments, text, tmp_path):
    more = ["--evaluation.probe_text", str(text), *SETTINGS]
    finetune(read_config(run_arguments(tmp_path / "a", *more)))
    compiled = _compare_batch._cache_size()
    config = read_config(run_arguments(tmp_path / "b", *more, "--training.eval_every", "1"))
    finetune(config)
    # Another run is another program, whatever the number of evaluations.
    assert _compare_batch._cache_size() <= compiled + 1


def test_a_resumed_run_may_add_a_probe_text(run_arguments, text, tmp_path):
    finetune(read_config(run_arguments(tmp_path, "--training.steps", "2", *SETTINGS)))
    more = ["--evaluation.probe_text", str(text), *SETTINGS, "--output.resume", "true"]
    summary = finetune(read_config(run_arguments(tmp_path, *more))).summary
    assert set(NAMES) <= set(summary.to_json()["metrics"])
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert {record["step"] for record in records if "eval_text_kl" in record} >= {6}


def test_another_text_is_not_measured_under_the_same_name(run_arguments, text, tmp_path, capsys):
    own = tmp_path / "own.txt"
    own.write_text(text.read_text())
    more = ["--evaluation.probe_text", str(own), *SETTINGS]
    finetune(read_config(run_arguments(tmp_path / "run", "--training.steps", "2", *more)))
    own.write_text("other words\n")
    with pytest.raises(BadInput, match=r"the text of evaluation.probe_text changed since; accept"):
        finetune(read_config(run_arguments(tmp_path / "run", *more, "--output.resume", "true")))


BAD = {
    "no file": (["--evaluation.probe_text", "{folder}/none.txt"], "does not exist"),
    "a folder": (["--evaluation.probe_text", "{folder}"], "evaluation.probe_text"),
    "empty": (["--evaluation.probe_text", "{empty}"], "has no passage; accepted"),
    "no held-out set": (
        ["--evaluation.probe_text", "{text}", "--data.eval", "null"],
        "accepted: with data.eval",
    ),
    "full": (
        ["--evaluation.probe_text", "{text}", "--method", "full"],
        "accepted: a method with adapters",
    ),
    "no passages": (
        ["--evaluation.probe_text", "{text}", "--evaluation.probe_limit", "0"],
        "evaluation.probe_limit is 0; accepted: a whole number from 1 to 100000",
    ),
}


@pytest.mark.parametrize(("more", "match"), BAD.values(), ids=BAD)
def test_a_text_is_refused(run_arguments, text, tmp_path, capsys, more, match):
    empty = tmp_path / "empty.txt"
    empty.write_text("\n\n")
    names = {"folder": tmp_path, "text": text, "empty": empty}
    arguments = run_arguments(tmp_path / "run", *(word.format(**names) for word in more))
    with pytest.raises(SystemExit) as stopped:
        main(["train", *arguments])
    assert stopped.value.code == 2
    error = capsys.readouterr().err.strip()
    assert match in error and len(error.splitlines()) == 1
    assert not (tmp_path / "run").exists()
