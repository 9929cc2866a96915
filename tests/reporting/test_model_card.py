"""The model card, from a made-up summary of a run."""

from balora_jax.config.parse import read_config
from balora_jax.reporting.model_card import CardResults, model_card, read_card
from balora_jax.training.summary import Summary


def test_card_describes_the_training(run_arguments, tmp_path):
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
    card = model_card(config, CardResults.of_summary(summary), rank=4, peft_rank=8)
    assert "rank 8" in card
    assert "consistency 0.025 (cosine)" in card
    assert "not measured after" in card
    assert "| accuracy | 0.5000 |" in card


def test_a_card_is_read_if_it_is_of_the_update(tmp_path):
    path = tmp_path / "README.md"
    assert read_card(path, 6) is None
    card = "# A card\n\n| updates | 6 of 2 examples, at most 8 tokens each |\n"
    path.write_text(card)
    assert read_card(path, 6) == card and read_card(path, 60) is None
    path.write_text(card.replace("each", "each; 0.5 of the change is kept"))
    assert read_card(path, 6) is None
    path.write_bytes(b"\x80\xff")
    assert read_card(path, 6) is None
