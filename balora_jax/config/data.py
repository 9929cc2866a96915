"""The examples."""

from dataclasses import dataclass, field
from typing import Literal

from balora_jax.config.check import require


@dataclass(frozen=True)
class DataConfig:
    """Where the examples are and how they become tokens."""

    train: str
    """A jsonl, json, csv or parquet file, or a hub name."""
    eval: str | None = None
    """Held-out examples, likewise; or null for none."""
    subset: str | None = None
    """A hub set's configuration (gsm8k: main)."""
    train_split: str = "train"
    """A hub set's split for training."""
    eval_split: str = "test"
    """A hub set's split for evaluation."""
    fields: dict[str, str] = field(default_factory=lambda: {"instruction": "instruction", "response": "response"})
    """Which of the set's fields plays which part: instruction, input (optional), response."""
    template: str = "alpaca"
    """alpaca, chat (the tokenizer's own), plain (no prompt: every token counts), or a text with {instruction},
    {input} or any field's name in braces."""
    max_length: int = 512
    """Tokens of prompt and response together."""
    limit: int | None = None
    """Train on only so many of the first rows; null for all."""
    eval_limit: int | None = None
    """Evaluate on only so many of the first rows; null for all."""
    probes: Literal["tiny-world"] | None = None
    """Also measure, before and after, what was planted in model and data: tiny-world, for the model and data of
    balora_jax.tiny_world.make."""

    def __post_init__(self) -> None:
        require(self.max_length >= 2, "data.max_length", self.max_length, "a whole number of at least 2")
        for key in ("limit", "eval_limit"):
            value = getattr(self, key)
            require(value is None or value >= 1, f"data.{key}", value, "null or a whole number of at least 1")
