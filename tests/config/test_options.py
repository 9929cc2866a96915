"""Options of a run as a mapping."""

import pathlib

import numpy as np
import pytest

from balora_jax.config.options import read_options
from balora_jax.config.parse import read_config
from balora_jax.errors import BadInput


def test_a_mapping_is_the_command_line(tmp_path):
    config = read_options(
        {
            "model": {"source": "my_model", "tokenizer": None},
            "method": "lora",
            "adapter.targets": ["q_proj", "v_proj"],
            "data": {"train": "rows.jsonl", "fields": {"response": "answer"}},
            "training.steps": 9,
            "optimizer": {"learning_rate": 3e-5, "learning_rates": {"v_proj": 1e-5}},
            "output.dir": tmp_path / "run",
            "output.merge": True,
        }
    )
    arguments = [
        "--model.source=my_model", "--method=lora", '--adapter.targets=["q_proj", "v_proj"]',
        "--data.train=rows.jsonl", '--data.fields={"response": "answer"}', "--training.steps=9",
        "--optimizer.learning_rate=3e-5", '--optimizer.learning_rates={"v_proj": 1e-5}',
        f"--output.dir={tmp_path / 'run'}", "--output.merge=true",
    ]  # fmt: skip
    assert config == read_config(arguments)


def test_numbers_of_numpy_are_numbers(tmp_path):
    config = read_options(
        {
            "model.source": "m", "data.train": "rows.jsonl", "output.dir": tmp_path / "run",
            "training.steps": np.int64(3), "output.merge": np.True_,
            "optimizer.learning_rate": np.float32(0.5),
        }
    )  # fmt: skip
    assert (config.training.steps, config.output.merge) == (3, True)
    assert config.optimizer.learning_rate == 0.5


ITSELF = {}
ITSELF["model"] = ITSELF


@pytest.mark.parametrize(
    "options",
    [{"adapter.targets": {"q_proj"}}, {"model.source": b"abc"}, {"training.steps": object()}],
    ids=["set", "bytes", "object"],
)
def test_what_is_no_option_is_named(options):
    [name] = options
    with pytest.raises(BadInput, match=rf"{name} cannot be read .*; accepted: text, numbers"):
        read_options(options)


def test_options_that_hold_themselves_are_refused():
    with pytest.raises(BadInput, match="the options hold themselves"):
        read_options(ITSELF)


def test_a_file_is_overridden(tmp_path):
    file = pathlib.Path(tmp_path / "run.yaml")
    file.write_text("model: {source: m}\ntraining: {steps: 3}\n")
    options = {"config": file, "training.steps": 5, "data.train": "r.jsonl"}
    config = read_options(options | {"output.dir": str(tmp_path / "run")})
    assert (config.model.source, config.training.steps) == ("m", 5)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"training.stepz": 1}, "stepz"),
        ({"output.dir": None}, "output.dir is None; accepted: text"),
        ({"model": {"source": None}}, "model.source is None; accepted: text"),
        ({"training.steps": "many"}, "steps is 'many'"),
        ({"output.dir": __file__}, "output.dir .* is a file; accepted: a folder"),
    ],
)
def test_bad_options(options, match):
    with pytest.raises(BadInput, match=match):
        read_options({"model.source": "m", "data.train": "r", "training.steps": 1} | options)


def test_cudnn_takes_no_packed_rows():
    options = {
        "model": {"source": "m", "attention": "cudnn"},
        "data.train": "rows.jsonl",
        "training.steps": 1,
        "output.dir": "run",
    }
    assert read_options(options).data.packing is None
    with pytest.raises(BadInput, match=r"model.attention is 'cudnn'; accepted: auto, plain"):
        read_options(options | {"data.packing": True})


def test_the_default_is_what_other_tasks_accept():
    options = {"model.source": "m", "data.train": "rows.jsonl", "output.dir": "run"}
    options |= {"training.steps": 1, "model.task": "sequence-classification", "data.packing": True}
    with pytest.raises(BadInput, match=r"accepted: null under model\.task sequence-classification"):
        read_options(options)
