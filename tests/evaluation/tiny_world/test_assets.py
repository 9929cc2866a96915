"""The committed model shows the planted defects, and the committed data is that of seed 0."""

import json
import os
import subprocess
import sys

import pytest

from balora_jax.data import load_rows, load_tokenizer
from balora_jax.evaluation.tiny_world import make_probes, make_questions, make_world, measure
from balora_jax.evaluation.tiny_world.embedded import ASSETS
from balora_jax.evaluation.tiny_world.make import describe
from balora_jax.models import load_pretrained


@pytest.fixture(scope="module")
def measured():
    model, params = load_pretrained(ASSETS / "model")
    probes = make_probes(make_world(0), load_tokenizer(str(ASSETS / "model")), *make_questions(0))
    return measure(model, params, {}, probes)


def test_the_model_has_the_planted_defects(measured):
    planted = {name: result for name, result in measured.items() if result.planted is not None}
    assert set(planted) == {"facts_known", "pronoun_favored", "class_good"}
    for name, result in planted.items():
        low, high = result.interval
        assert low <= result.value <= high, name


def test_the_base_cannot_do_the_task(measured):
    assert measured["accuracy"].value < 0.3


def test_measurements_equal_the_committed_ones(measured):
    written = json.loads((ASSETS / "measured.json").read_text())
    for name, result in describe(measured).items():
        assert result["value"] == pytest.approx(written[name]["value"], abs=0.01), name


def test_data_equals_that_of_seed_0():
    for name, rows in zip(("train", "test"), make_questions(0), strict=True):
        assert list(load_rows(str(ASSETS / f"{name}.jsonl")).rows) == rows


def test_the_model_is_small():
    assert sum(path.stat().st_size for path in (ASSETS / "model").iterdir()) < 2.5e6


def test_quickstart_runs_from_anywhere_and_learns(tmp_path):
    # A fifth of the default run at three times its learning rate; optimized compilation, as usual.
    command = [sys.executable, "-c", "from balora_jax.cli import main; main()", "quickstart"]
    options = [
        "--training.steps",
        "60",
        "--optimizer.learning_rate",
        "3e-3",
        "--training.eval_every",
        "0",
    ]
    subprocess.run(
        [*command, *options, "--output.dir", "run"],
        cwd=tmp_path,
        env=os.environ | {"XLA_FLAGS": ""},
        check=True,
    )
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    before, after = summary["probes"]["accuracy"]
    assert after >= before + 0.3
