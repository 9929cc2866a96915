"""A run with packed rows is the run without, in fewer tokens."""

import json

import numpy as np
import pytest
from plugin_cases import no_trace

from balora_jax.config.parse import read_config
from balora_jax.data import load_tokenizer
from balora_jax.regularizers.registration import register_term
from balora_jax.runs.causal_lm import CausalLM
from balora_jax.runs.finetune import finetune
from balora_jax.training.sharding import make_mesh

# Every schedule, and both versions of the paper.
SETTINGS = {
    "2026": {
        "consistency": {"schedule": "adaptive"},
        "diversity": {"schedule": "linear"},
        "svd": {"schedule": "two-phase", "delay": 0.1, "ramp": 0.5},
    },
    "2024": {
        "consistency": {"weight": 1e-2, "schedule": "cosine", "temperature": 1.0},
        "diversity": {"weight": 3e-2, "schedule": "quadratic", "top_k": None},
        "svd": {"weight": 1e-2, "schedule": "constant", "k": 3, "norm": "nuclear", "groups": 2},
    },
}
MESHES = {"one device": {}, "eight devices": {"mesh.data": 2, "mesh.fsdp": 2, "mesh.tensor": 2}}


@pytest.fixture(scope="module")
def stories(tmp_path_factory):
    """Rows of very different lengths."""
    random = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("stories")
    for name, count in (("train", 60), ("eval", 21)):
        rows = []
        for _ in range(count):
            words = [str(number) for number in random.integers(0, 99, random.integers(1, 30))]
            rows.append({"question": " ".join(words) + "=", "answer": " ".join(reversed(words))})
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def _options(stories, settings, mesh):
    options = [
        "--data.train", str(stories / "train.jsonl"), "--data.eval", str(stories / "eval.jsonl"),
        "--data.max_length", "96", "--training.steps", "20", "--training.batch_size", "16",
        "--training.eval_every", "10", "--output.save_every", "10",
    ]  # fmt: skip
    for term, fields in settings.items():
        for name, value in fields.items():
            text = "null" if value is None else str(value)
            options += [f"--regularizers.{term}.{name}", text]
    return options + [text for pair in mesh.items() for text in (f"--{pair[0]}", str(pair[1]))]


def _records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("version, mesh", zip(SETTINGS, MESHES, strict=True))
def test_the_losses_are_those_without_packing(run_arguments, stories, tmp_path, version, mesh):
    options = _options(stories, SETTINGS[version], MESHES[mesh])
    summaries = {}
    for packing in ("true", "false"):
        arguments = run_arguments(tmp_path / packing, *options, "--data.packing", packing)
        summaries[packing] = finetune(read_config(arguments)).summary
    packed = _records(tmp_path / "true")
    padded = _records(tmp_path / "false")
    assert len(packed) == len(padded) == 23
    for ours, theirs in zip(packed, padded, strict=True):
        assert ours.keys() == theirs.keys()
        # The sum of a term that is near 0 has the rounding of its parts.
        for name in ("loss", "task", "eval_loss", "diversity", "svd", "tokens", "response_tokens"):
            np.testing.assert_allclose(ours.get(name, 0), theirs.get(name, 0), rtol=1e-5)
        np.testing.assert_allclose(
            ours.get("consistency", 0), theirs.get("consistency", 0), rtol=1e-4, atol=1e-6
        )
    assert len(summaries["true"].lengths_compiled) <= 4
    assert packed[-2]["loss"] < packed[1]["loss"], "the run learns"


def test_a_resumed_run_has_the_same_bits(run_arguments, stories, tmp_path):
    options = _options(stories, SETTINGS["2026"], {})
    arguments = run_arguments(tmp_path / "whole", *options)
    finetune(read_config(arguments))
    arguments = run_arguments(tmp_path / "parts", *options)
    seen = []
    finetune(
        read_config(arguments), callbacks=[lambda record: seen.append(record) or len(seen) > 7]
    )
    finetune(read_config([*arguments, "--output.resume"]))
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        whole = (tmp_path / "whole" / "adapter" / name).read_bytes()
        assert whole == (tmp_path / "parts" / "adapter" / name).read_bytes()


def _layout(arguments):
    config = read_config(arguments)
    task = CausalLM(config, load_tokenizer(config.model.source))

    class Loaded:
        params = None
        pretrained = None

    task.prepare(Loaded, make_mesh(config.mesh), 6, None)
    return task.layout


def test_packing_is_the_default(run_arguments, tmp_path):
    assert "packed" in _layout(run_arguments(tmp_path))
    assert "packed" not in _layout(run_arguments(tmp_path, "--data.packing", "false"))


def test_a_registered_term_of_a_batch_sees_unpacked_rows(run_arguments, tmp_path):
    weight = ["--regularizers.spread.weight", "0.1"]
    with no_trace():
        register_term("spread", lambda logits, mask: logits.std(), per="batch")
        assert "packed" not in _layout(run_arguments(tmp_path, *weight))
        assert "packed" in _layout(run_arguments(tmp_path, *weight, "--data.packing", "true"))
