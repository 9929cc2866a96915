"""Measures at every evaluation of a run, besides the held-out loss."""

from dataclasses import dataclass

from balora_jax.config.check import require

LARGEST_LIMIT = 100_000


@dataclass(frozen=True)
class EvaluationConfig:
    """Measures at every evaluation of a run, besides the held-out loss."""

    probe_text: str | None = None
    """General text on which the model is compared with its untouched base: a .txt file of
    paragraphs with empty lines between, or .jsonl with a field text."""
    probe_limit: int = 32
    """The most passages of that text to read, 1 to 100000."""

    def __post_init__(self) -> None:
        fits = 1 <= self.probe_limit <= LARGEST_LIMIT
        accepted = f"a whole number from 1 to {LARGEST_LIMIT}"
        require(fits, "evaluation.probe_limit", self.probe_limit, accepted)
