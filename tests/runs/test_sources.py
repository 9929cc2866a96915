"""Runs on several sources: bits of a resumed run, classifiers, fields of their own."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from balora_jax.cli import main
from balora_jax.config.parse import read_config
from balora_jax.runs.finetune import finetune
from tests.cases.classification_cases import (
    letter_arguments,
    letter_rows,
    save_model,
    write_rows,
)


def _write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(scope="module")
def letters(tmp_path_factory):
    folder = tmp_path_factory.mktemp("letters")
    write_rows(folder / "train.jsonl", letter_rows(200, 0))
    save_model("bert", folder / "bert")
    return folder


@pytest.fixture
def mixture(tmp_path):
    """Sums with three names of fields, and the sources that name them."""
    questions = [(f"{a}+{b}=", str(a + b)) for a in range(9) for b in range(9)]
    plain = _write(tmp_path / "plain.jsonl", [{"prompt": q, "completion": a} for q, a in questions])
    deep = _write(tmp_path / "deep.jsonl", [{"q": q, "turns": [{"a": a}]} for q, a in questions])
    fields = {"instruction": "q", "response": "turns.0.a"}
    return [
        {"source": plain, "weight": 3},
        {"source": deep, "weight": 1, "limit": 40, "fields": fields},
    ]


def _arguments(run_arguments, folder, mixture, steps, *more):
    settings = ["--data.train", json.dumps(mixture), "--data.fields", "{}", "--data.eval", "null"]
    settings += ["--training.steps", str(steps), "--optimizer.schedule", "constant"]
    settings += ["--optimizer.warmup", "0", "--method", "pissa"]
    return read_config(run_arguments(folder, *settings, *more))


def _adapter(folder):
    return load_file(folder / "adapter" / "adapter_model.safetensors")


def test_a_resumed_run_on_several_sources_has_the_same_bits(
    run_arguments, mixture, tmp_path, capsys
):
    finetune(_arguments(run_arguments, tmp_path / "whole", mixture, 11))
    printed = capsys.readouterr().out
    assert "75.0% of the examples from" in printed and "40 of 40 rows used" in printed
    finetune(_arguments(run_arguments, tmp_path / "parts", mixture, 5))
    finetune(_arguments(run_arguments, tmp_path / "parts", mixture, 11, "--output.resume", "true"))
    whole = _adapter(tmp_path / "whole")
    for name, array in _adapter(tmp_path / "parts").items():
        np.testing.assert_array_equal(array, whole[name])
    card = (tmp_path / "whole" / "adapter" / "README.md").read_text()
    assert "plain.jsonl" in card and "deep.jsonl" in card


def test_resuming_with_other_weights_is_refused(run_arguments, mixture, tmp_path, capsys):
    finetune(_arguments(run_arguments, tmp_path / "run", mixture, 5))
    mixture[0]["weight"] = 4
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        settings = ["--data.train", json.dumps(mixture), "--data.fields", "{}"]
        settings += ["--data.eval", "null", "--training.steps", "11", "--method", "pissa"]
        settings += ["--optimizer.schedule", "constant", "--optimizer.warmup", "0"]
        main(["train", *run_arguments(tmp_path / "run", *settings, "--output.resume")])
    assert stopped.value.code == 2
    assert "data.train" in capsys.readouterr().err


def test_a_classifier_learns_from_several_sources(tmp_path, letters, capsys):
    """With fields of their own, weights, and a share of each held out."""
    rows = [json.loads(line) for line in (letters / "train.jsonl").read_text().splitlines()]
    other = [{"sentence": row["text"], "class": row["label"]} for row in rows[:60]]
    path = _write(tmp_path / "other.jsonl", other)
    fields = {"text": "sentence", "label": "class"}
    mixture = [
        {"source": str(letters / "train.jsonl"), "weight": 1},
        {"source": path, "weight": 1, "fields": fields},
    ]
    settings = ["--data.train", json.dumps(mixture), "--data.eval", "null"]
    settings += ["--data.eval_share", "0.1"]
    finetune(read_config(letter_arguments(letters, tmp_path / "run", *settings)))
    printed = capsys.readouterr().out
    assert "50.0% of the examples from" in printed
    metrics = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert "other/accuracy" in metrics and "train/accuracy" in metrics
