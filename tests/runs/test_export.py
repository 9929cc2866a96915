"""Plots and the model card, from numbers made up."""

import json

from PIL import Image

from balora_jax.reporting.model_card import model_card
from balora_jax.config.parse import read_config
from balora_jax.reporting.plots import draw


def _metrics(path, terms):
    records = [{"step": 0, "eval_loss": 3.0}]
    for step in range(1, 6):
        record = {"step": step, "loss": 3 / step, "task": 3 / step, "learning_rate": 1e-4}
        records.append(record | {name: 0.1 * step for name in terms} | {f"weight_{name}": 0.01 for name in terms})
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_pictures_of_what_acted(tmp_path):
    every = draw(_metrics(tmp_path / "a.jsonl", ["consistency", "diversity", "svd"]), tmp_path / "a")
    assert {path.stem for path in every} == {"loss", "learning_rate", "regularizers", "weights"}
    assert all(Image.open(path).size[0] > 600 for path in every)
    plain = draw(_metrics(tmp_path / "b.jsonl", []), tmp_path / "b")
    assert {path.stem for path in plain} == {"loss", "learning_rate"}
    one = draw(_metrics(tmp_path / "c.jsonl", ["svd"]), tmp_path / "c")
    assert len(one) == 4


def test_card_says_how_it_was_made(run_arguments, tmp_path):
    config = read_config(run_arguments(tmp_path))
    summary = {
        "steps": 6,
        "eval_loss_first": 2.0,
        "eval_loss_last": None,
        "metrics": {"accuracy": 0.5},
        "metrics_ood": {},
    }
    card = model_card(config, summary, peft_rank=8)
    assert "rank 8" in card and "consistency 0.025 (cosine)" in card and "not measured after" in card
    assert "| accuracy | 0.5000 |" in card
