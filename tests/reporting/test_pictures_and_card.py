"""Plots and the model card, from numbers made up."""

import dataclasses

from PIL import Image
from record_cases import RECORD

from balora_jax.config.parse import read_config
from balora_jax.reporting.model_card import model_card
from balora_jax.reporting.plots import draw
from balora_jax.training.records import HeldOutRecord
from balora_jax.training.summary import History, Summary


def _history(terms):
    steps = [
        dataclasses.replace(
            RECORD,
            step=step,
            loss=3 / step,
            task=3 / step,
            terms={name: 0.1 * step for name in terms},
            weights={name: 0.01 for name in terms},
        )
        for step in range(1, 6)
    ]
    return History.of([HeldOutRecord(0, 3.0), *steps])


def test_pictures_of_what_acted(tmp_path):
    every = draw(_history(["consistency", "diversity", "svd"]), tmp_path / "a")
    assert {path.stem for path in every} == {"loss", "learning_rate", "regularizers", "weights"}
    assert all(Image.open(path).size[0] > 600 for path in every)
    plain = draw(_history([]), tmp_path / "b")
    assert {path.stem for path in plain} == {"loss", "learning_rate"}
    one = draw(_history(["svd"]), tmp_path / "c")
    assert len(one) == 4


def test_card_says_how_it_was_made(run_arguments, tmp_path):
    config = read_config(run_arguments(tmp_path))
    summary = Summary(
        method="ba-lora",
        model="tiny",
        steps=6,
        step_kept=6,
        parameters_trained=1,
        parameters_frozen=1,
        loss_first=2.0,
        loss_last=1.0,
        eval_loss_first=2.0,
        eval_loss_last=None,
        metrics={"accuracy": 0.5},
        metrics_ood={},
        score=None,
        probes={},
        terms={},
        tokens_per_second=1.0,
        lengths_compiled=[32],
        compile_seconds=1.0,
        device_bytes=1,
        seconds=1.0,
    )
    card = model_card(config, summary, peft_rank=8)
    assert (
        "rank 8" in card and "consistency 0.025 (cosine)" in card and "not measured after" in card
    )
    assert "| accuracy | 0.5000 |" in card
