"""The three regularizers: weights, schedules, and what each term has of its own."""

from dataclasses import dataclass, field
from typing import Literal

from balora_jax.config.check import require


@dataclass(frozen=True)
class TermConfig:
    """What the three regularizers share: a weight and its schedule over the run."""

    weight: float = 0.0
    """The weight; 0 switches the term off, at no cost."""
    schedule: Literal["constant", "cosine", "two-phase", "linear", "quadratic"] = "constant"
    """constant; cosine (falls to `final` of the weight); two-phase (0 for `delay` of the steps, then a ramp over
    `ramp` of them); linear or quadratic (rises from 0 over the first `warmup` of the steps)."""
    final: float = 0.1
    """Share of the weight that is left at the end (cosine), or at the least (adaptive)."""
    delay: float = 0.2
    """Share of the steps before a two-phase term begins."""
    ramp: float = 0.05
    """Share of the steps over which a two-phase term reaches its weight."""
    warmup: float = 1.0
    """Share of the steps over which a linear or quadratic term reaches its weight."""

    def __post_init__(self) -> None:
        name = f"regularizers.{type(self).__name__.removesuffix('Config').lower()}"
        require(
            0 <= self.weight < float("inf"), f"{name}.weight", self.weight, "a number of at least 0"
        )
        for key in ("final", "delay", "ramp", "warmup"):
            value = getattr(self, key)
            require(0 <= value <= 1, f"{name}.{key}", value, "a share from 0 to 1")


@dataclass(frozen=True)
class ConsistencyConfig(TermConfig):
    """Stay near the pre-trained model's outputs (knowledge drift)."""

    weight: float = 0.025
    schedule: Literal["constant", "cosine", "two-phase", "linear", "quadratic", "adaptive"] = (
        "cosine"
    )
    """As for the other terms, and adaptive: more weight where the teacher is sure,
    final * weight + (1 - final) * weight * (1 - H_teacher / log V)."""
    temperature: float = 2.0
    """Softmax temperature of both distributions."""
    form: Literal["kl", "mse"] = "kl"
    """kl, or (classification only) mse: squared differences of unit-length logits, the 2024 version."""
    teacher_head: Literal["initial", "student", "probe"] = "initial"
    """Classification: which head reads the pre-trained model's features. initial: the head as it started. student: the
    head as it is now, without gradient. probe: one first fitted on those features; the run, under any method, starts
    from it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.temperature > 0,
            "regularizers.consistency.temperature",
            self.temperature,
            "a number above 0",
        )


@dataclass(frozen=True)
class DiversityConfig(TermConfig):
    """Keep the outputs spread out (representation collapse)."""

    weight: float = 0.005
    schedule: Literal["constant", "cosine", "two-phase", "linear", "quadratic"] = "two-phase"
    top_k: int | None = 20
    """Language models: entropy over each token's top_k logits; null for the whole vocabulary."""

    def __post_init__(self) -> None:
        super().__post_init__()
        ok = self.top_k is None or self.top_k >= 2
        require(
            ok, "regularizers.diversity.top_k", self.top_k, "null or a whole number of at least 2"
        )


@dataclass(frozen=True)
class SvdConfig(TermConfig):
    """Concentrate the logits on their leading directions (overfitting to noise)."""

    weight: float = 0.005
    schedule: Literal["constant", "cosine", "two-phase", "linear", "quadratic"] = "two-phase"
    k: int = 10
    """How many leading singular values count."""
    norm: Literal["frobenius", "nuclear"] = "frobenius"
    """Language models: what their sum is divided by, the Frobenius norm (2026) or the sum of all singular values (2024,
    and classification)."""
    method: Literal["subspace", "exact", "randomized"] = "subspace"
    """Language models: how they are found, by subspace (block iterations, to 1e-4), exact (a whole decomposition), or
    randomized, the official code's svd_lowrank, for comparison."""
    groups: int = 1
    """Equal parts of a micro-batch that each have a term of their own, which is averaged. 1: the term sees the whole
    micro-batch, on however many devices; the number of devices: the official code's per-device reading."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.k >= 1, "regularizers.svd.k", self.k, "a whole number of at least 1")
        require(
            self.groups >= 1, "regularizers.svd.groups", self.groups, "a whole number of at least 1"
        )


@dataclass(frozen=True)
class RegularizersConfig:
    """The three terms added to the task's loss; they act under method ba-lora only."""

    consistency: ConsistencyConfig = field(default_factory=ConsistencyConfig)
    diversity: DiversityConfig = field(default_factory=DiversityConfig)
    svd: SvdConfig = field(default_factory=SvdConfig)
