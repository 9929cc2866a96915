"""The low-rank adapters."""

import re
from dataclasses import dataclass, field
from typing import Literal

from balora_jax.config.check import require

PISSA_PATTERN = re.compile(r"pissa(_niter_(\d+))?")
PAPER_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class AdapterConfig:
    """The low-rank adapters."""

    rank: int = 32
    """Columns of A and rows of B."""
    alpha: float | None = None
    """Numerator of the scale alpha / rank; the rank itself when not given."""
    init: str | None = None
    """lora (A random, B zero), pissa (exact SVD), pissa_niter_N (N subspace iterations), or a PEFT adapter's
    folder to go on from. When not given: lora for method lora, pissa_niter_16 for pissa and ba-lora."""
    targets: str | list[str] = field(default_factory=lambda: list(PAPER_TARGETS))
    """Layer names, or regular expressions matched against the whole dotted path, or all-linear."""
    form: Literal["delta", "residual"] = "delta"
    """delta: W x + s (A B - A0 B0) x, the base untouched. residual: W_res x + s A B x, the paper's letter."""
    rank_stabilized: bool = False
    """Scale alpha / sqrt(rank) instead of alpha / rank (rank-stabilized LoRA)."""
    dropout: float = 0.0
    """Probability of dropping an input of the adapter."""

    def __post_init__(self) -> None:
        require(self.rank >= 1, "adapter.rank", self.rank, "a whole number of at least 1")
        require(
            self.alpha is None or self.alpha > 0, "adapter.alpha", self.alpha, "a number above 0"
        )
        require(
            0 <= self.dropout < 1,
            "adapter.dropout",
            self.dropout,
            "a number from 0 up to, not including, 1",
        )
        require(
            bool(self.targets), "adapter.targets", self.targets, "at least one name, or all-linear"
        )
