"""Runs from Python: what they return, callbacks, and runs that are loaded again."""

import json
import re

import chex
import jax.numpy as jnp
import numpy as np
import pytest

import balora_jax
from balora_jax.data.splits import divide
from balora_jax.errors import BadInput

IDS = jnp.array([[5, 9, 40, 41, 42]])


def _options(run_arguments, folder, *more):
    arguments = iter(run_arguments(folder, *more))
    return {
        name.removeprefix("--"): value for name, value in zip(arguments, arguments, strict=True)
    }


def _logits(result):
    variables = {"params": result.params, "lora": result.adapter}
    return np.asarray(result.model.apply(variables, IDS), np.float32)


@pytest.mark.parametrize("form", ["delta", "residual"])
def test_a_run_returns_its_model(run_arguments, tmp_path, form):
    records = []
    options = _options(run_arguments, tmp_path / "run", "--adapter.form", form)
    result = balora_jax.finetune(options, callbacks=[records.append])
    assert result.step == result.summary.steps == 6
    assert [record.step for record in records if hasattr(record, "gradient_norm")] == [*range(1, 7)]
    loaded = balora_jax.load_run(tmp_path / "run")
    assert loaded.step == 6 and loaded.summary.to_json() == result.summary.to_json()
    # Of the residual form the base is another, and the sum the same but for rounding.
    np.testing.assert_allclose(_logits(loaded), _logits(result), atol=1e-5)
    adapter = balora_jax.load_adapter(tmp_path / "run" / "adapter", loaded.params)
    read = loaded.model.apply({"params": loaded.params, "lora": adapter}, IDS)
    np.testing.assert_allclose(np.asarray(read), _logits(loaded), atol=1e-5)
    base = loaded.model.apply({"params": loaded.params}, IDS)
    assert np.abs(np.asarray(base) - _logits(loaded)).max() > 1e-3
    text = loaded.tokenizer.decode(loaded.tokenizer("1+2=").input_ids, skip_special_tokens=True)
    assert text == "1+2="


def test_a_callback_stops_a_run_that_can_be_resumed(run_arguments, tmp_path, capsys):
    options = _options(run_arguments, tmp_path / "run")
    assert balora_jax.finetune(options, callbacks=[lambda record: record.step == 3]) is None
    # The numbers of an update are read while the next one runs.
    stopped = balora_jax.load_run(tmp_path / "run")
    assert stopped.step == 4 and stopped.summary is None
    assert balora_jax.finetune(options | {"output.resume": True}).step == 6
    assert balora_jax.load_run(tmp_path / "run", 4).step == 4


class Bar:
    """A callback with the numbers that a progress bar shows."""

    def __init__(self):
        self.shown = []

    def begin(self, done, steps):
        self.shown.append((done, steps))

    def __call__(self, record):
        self.shown.append(record.step)
        return record.step == 2


def test_a_callback_is_told_where_a_run_begins_and_ends(run_arguments, tmp_path):
    options = _options(run_arguments, tmp_path / "run", "--data.eval", "null")
    first = Bar()
    assert balora_jax.finetune(options, callbacks=[first]) is None
    # A checkpoint is due there, so the numbers of the update are read before the next one.
    assert first.shown == [(0, 6), 1, 2]
    again = Bar()
    balora_jax.finetune(options | {"output.resume": True}, callbacks=[again])
    assert again.shown == [(2, 6), 3, 4, 5, 6]


def test_a_share_of_the_rows_is_held_out(run_arguments, sums, tmp_path):
    options = _options(run_arguments, tmp_path / "run")
    rows = (sums / "train.jsonl").read_text().splitlines(keepends=True)
    share = {"data.eval": None, "data.eval_share": 0.25, "training.eval_every": 3}
    summary = balora_jax.finetune(options | share).summary
    assert summary.eval_loss_last < summary.eval_loss_first
    # The same as with the two parts in files.
    division = divide("train", [None] * len(rows), 0.25)
    files = {"data.train": division.train, "data.eval": division.held_out}
    for name, indices in files.items():
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(rows[index] for index in indices))
        files[name] = path
    apart = balora_jax.finetune(
        options | files | {"training.eval_every": 3, "output.dir": tmp_path / "apart"}
    ).summary
    assert apart.eval_loss_last == summary.eval_loss_last
    assert apart.loss_last == summary.loss_last


@pytest.mark.parametrize("optimizer", ["lion", "adafactor"])
def test_other_optimizers_train_and_resume_in_the_same_bits(run_arguments, tmp_path, optimizer):
    more = ["--optimizer.name", optimizer, "--optimizer.learning_rate", "1e-3"]
    whole = balora_jax.finetune(_options(run_arguments, tmp_path / "whole", *more))
    assert whole.summary.loss_last < whole.summary.loss_first
    options = _options(run_arguments, tmp_path / "parts", *more)
    assert balora_jax.finetune(options, callbacks=[lambda record: record.step == 2]) is None
    parts = balora_jax.finetune(options | {"output.resume": True})
    chex.assert_trees_all_equal(parts.adapter, whole.adapter)
    card = (tmp_path / "whole" / "adapter" / "README.md").read_text()
    assert f"| learning rate | 0.001, {optimizer}," in card


def test_public_names():
    assert {"finetune", "load_run", "load_adapter", "load_pretrained", "Result"} <= set(
        dir(balora_jax)
    )
    for name in balora_jax.__all__:
        assert getattr(balora_jax, name)
    unknown = "nothing"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        getattr(balora_jax, unknown)
    assert re.fullmatch(r"\d+\.\d+.*", balora_jax.__version__)


def test_a_folder_without_a_run_and_a_damaged_summary(run_arguments, tmp_path):
    with pytest.raises(BadInput, match="is no run's folder"):
        balora_jax.load_run(tmp_path)
    balora_jax.finetune(_options(run_arguments, tmp_path / "run", "--training.steps", "1"))
    summary = tmp_path / "run" / "summary.json"
    summary.write_text(json.dumps({"steps": 1}))
    with pytest.raises(BadInput, match=r"summary.json cannot be read .*accepted: the file"):
        balora_jax.load_run(tmp_path / "run")
