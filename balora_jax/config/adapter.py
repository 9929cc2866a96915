"""The low-rank adapters, and the names of their starts."""

from dataclasses import dataclass, field
from typing import Literal

from balora_jax.config.check import require

# Every start (initialization of the adapters) by name, with the integer settings that may follow
# the name: pissa_niter_16 is pissa with niter 16. adapters/starts.py has the functions.
START_SETTINGS: dict[str, tuple[str, ...]] = {
    "lora": (),
    "pissa": ("niter",),
    "lora_ga": ("niter",),
}
PAPER_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def parse_start(init: str) -> tuple[str, dict[str, int]] | None:
    """Split the name of a start from its setting.

        parse_start("lora")              ->  ("lora", {})
        parse_start("pissa_niter_16")    ->  ("pissa", {"niter": 16})
        parse_start("runs/mine/adapter") ->  None

    Args:
      init: the value of `adapter.init`.

    Returns:
      The name and its settings, or None if `init` names no start.
    """
    for name, settings in START_SETTINGS.items():
        if init == name:
            return name, {}
        for setting in settings:
            prefix = f"{name}_{setting}_"
            number = init.removeprefix(prefix)
            is_number = number.isascii() and number.isdecimal() and len(number) <= 3
            if init.startswith(prefix) and is_number:
                return name, {setting: int(number)}
    return None


def start_spellings(name: str) -> list[str]:
    """List the spellings of a start, for messages: pissa -> pissa, pissa_niter_N."""
    return [name, *(f"{name}_{setting}_N" for setting in START_SETTINGS[name])]


@dataclass(frozen=True)
class AdapterConfig:
    """The low-rank adapters."""

    rank: int = 32
    """Rank of the adapters: columns of A, rows of B."""
    alpha: float | None = None
    """Numerator of the scale alpha / rank; null for the rank itself."""
    init: str | None = None
    """Initialization of A and B: lora (A random, B zero), pissa (exact SVD of each kernel),
    pissa_niter_N (randomized SVD with N iterations), lora_ga or lora_ga_niter_N (SVD of the
    gradient on a first batch), or the folder of a PEFT adapter to continue from. Null: lora for
    method lora, pissa_niter_16 for pissa and ba-lora."""
    targets: str | list[str] = field(default_factory=lambda: list(PAPER_TARGETS))
    """Layers to adapt: names, regular expressions that match a whole dotted path, or all-linear. An
    embedding of a language model by its name alone, such as embed_tokens. The default is, in a
    model that fuses these layers, qkv_proj and gate_up_proj in their place, and in a mixture of
    experts those of the attention."""
    modules_to_save: list[str] | None = None
    """Modules of a causal language model to train whole beside the adapters, by names or regular
    expressions: lm_head, embed_tokens, the final norm. A tied head or embedding that is trained or
    adapted gets weights of its own, as in PEFT, and is no longer tied after a merge. A trained
    lm_head takes the memory of whole logits; its own rate is optimizer.learning_rates. Null for
    none."""
    form: Literal["delta", "residual"] = "delta"
    """delta: W x + s (A B - A0 B0) x on the unchanged base. residual: W_res x + s A B x, as in the
    paper."""
    rank_stabilized: bool = False
    """Scale by alpha / sqrt(rank) instead of alpha / rank (rank-stabilized LoRA)."""
    dropout: float = 0.0
    """Dropout probability of the adapters' inputs."""

    def __post_init__(self) -> None:
        require(self.rank >= 1, "adapter.rank", self.rank, "a whole number of at least 1")
        alpha_ok = self.alpha is None or 0 < self.alpha <= 1e6
        require(alpha_ok, "adapter.alpha", self.alpha, "null, or a number above 0, at most 1000000")
        require(
            0 <= self.dropout < 1,
            "adapter.dropout",
            self.dropout,
            "a number from 0 up to, not including, 1",
        )
        has_targets = bool(self.targets)
        require(has_targets, "adapter.targets", self.targets, "at least one name, or all-linear")
        saved_ok = self.modules_to_save is None or len(self.modules_to_save) > 0
        accepted = "null, or at least one name"
        require(saved_ok, "adapter.modules_to_save", self.modules_to_save, accepted)
