"""An example of the record of one update."""

from balora_jax.training.records import StepRecord

RECORD = StepRecord(
    step=3,
    loss=1.5,
    task=1.25,
    terms={"consistency": 0.5},
    weights={"consistency": 0.025},
    learning_rate=1e-3,
    gradient_norm=1.0,
    tokens=640,
    tokens_per_second=1234.5,
)
