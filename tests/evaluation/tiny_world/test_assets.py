"""What is committed: the model shows what was planted, and the data is what the seed makes."""

import json
import os
import subprocess
import sys

import pytest

from balora_jax.data import load_rows, load_tokenizer
from balora_jax.errors import BadInput
from balora_jax.evaluation.tiny_world import make_probes, make_questions, make_world, measure
from balora_jax.evaluation.tiny_world.embedded import ASSETS
from balora_jax.evaluation.tiny_world.make import describe, make, write_scratch
from balora_jax.models import load_pretrained


@pytest.fixture(scope="module")
def measured():
    model, params = load_pretrained(ASSETS / "model")
    probes = make_probes(make_world(0), load_tokenizer(str(ASSETS / "model")), *make_questions(0))
    return measure(model, params, {}, probes)


def test_planted_defects_are_in_the_model(measured):
    planted = {name: found for name, found in measured.items() if found.planted is not None}
    assert set(planted) == {"facts_known", "pronoun_favored", "class_good"}
    for name, found in planted.items():
        low, high = found.interval
        assert low <= found.value <= high, name


def test_the_base_cannot_do_the_task(measured):
    assert measured["accuracy"].value < 0.3


def test_measured_is_what_was_written_when_it_was_made(measured):
    written = json.loads((ASSETS / "measured.json").read_text())
    for name, found in describe(measured).items():
        assert found["value"] == pytest.approx(written[name]["value"], abs=0.01), name


def test_data_is_what_the_seed_makes():
    for name, rows in zip(("train", "test"), make_questions(0), strict=True):
        assert list(load_rows(str(ASSETS / f"{name}.jsonl")).rows) == rows


def test_the_model_is_small():
    assert sum(path.stat().st_size for path in (ASSETS / "model").iterdir()) < 2.5e6


def test_what_pretraining_starts_from(tmp_path):
    rows = [row for rows in make_questions(0) for row in rows]
    tokenizer = write_scratch(tmp_path, make_world(0), rows, seed=0)
    assert load_tokenizer(str(ASSETS / "model")).get_vocab() == tokenizer.get_vocab()
    config, committed = (
        json.loads((path / "config.json").read_text()) for path in (tmp_path, ASSETS / "model")
    )
    assert {name: committed[name] for name in config} == config
    assert len(load_rows(str(tmp_path / "corpus.jsonl")).rows) > 10_000


def test_says_when_there_is_something_already(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match="is not empty; accepted: a new or empty folder"):
        make(tmp_path, seed=0)


def test_quickstart_runs_from_anywhere_and_learns(tmp_path):
    # A fifth of the run that users make, at three times its rate: half of what it learns; compiled as theirs is.
    command = [sys.executable, "-c", "from balora_jax.cli import main; main()", "quickstart"]
    shorter = [
        "--training.steps",
        "60",
        "--optimizer.learning_rate",
        "3e-3",
        "--training.eval_every",
        "0",
    ]
    subprocess.run(
        [*command, *shorter, "--output.dir", "run"],
        cwd=tmp_path,
        env=os.environ | {"XLA_FLAGS": ""},
        check=True,
    )
    before, after = json.loads((tmp_path / "run" / "summary.json").read_text())["probes"][
        "accuracy"
    ]
    assert after >= before + 0.3
