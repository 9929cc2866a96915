"""The regularizers: a section each, with its weight, its schedule and its own settings."""

import dataclasses
import functools
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from balora_jax.config.check import require

Schedule = Literal["constant", "cosine", "two-phase", "linear", "quadratic"]


@dataclass(frozen=True)
class TermConfig:
    """Settings that every regularizer has: a weight and its schedule over the run."""

    name: ClassVar[str] = "term"

    weight: float = 0.0
    """The weight; 0 switches the term off, at no cost."""
    schedule: Schedule = "constant"
    """constant; cosine (falls to `final` of the weight); two-phase (0 for `delay` of the steps,
    then a ramp over `ramp` of them); linear or quadratic (rises from 0 over the first `warmup` of
    the steps)."""
    final: float = 0.1
    """Share of the weight that is left at the end (cosine), or at the least (adaptive)."""
    delay: float = 0.2
    """Share of the steps before a two-phase term begins."""
    ramp: float = 0.05
    """Share of the steps over which a two-phase term reaches its weight."""
    warmup: float = 1.0
    """Share of the steps over which a linear or quadratic term reaches its weight."""

    def __post_init__(self) -> None:
        option = f"regularizers.{self.name}"
        ok = 0 <= self.weight <= 1e6
        require(ok, f"{option}.weight", self.weight, "a number from 0 to 1000000")
        for key in ("final", "delay", "ramp", "warmup"):
            value = getattr(self, key)
            require(0 <= value <= 1, f"{option}.{key}", value, "a share from 0 to 1")


@dataclass(frozen=True)
class ConsistencyConfig(TermConfig):
    """Stay near the pre-trained model's outputs (knowledge drift)."""

    name: ClassVar[str] = "consistency"

    weight: float = 0.025
    schedule: Literal["constant", "cosine", "two-phase", "linear", "quadratic", "adaptive"] = (
        "cosine"
    )
    """As for the other terms, and adaptive: more weight where the teacher is sure,
    final * weight + (1 - final) * weight * (1 - H / log V), with H the mean entropy of the
    teacher's softmax at `temperature`."""
    temperature: float = 2.0
    """Softmax temperature of both distributions."""
    form: Literal["kl", "mse"] = "kl"
    """kl, or (classification only) mse: squared differences of unit-length logits, the 2024
    version."""
    teacher_head: Literal["initial", "student", "probe"] = "initial"
    """Classification: the head that reads the pre-trained model's features. initial: the head as
    it started. student: the head as it is now, without gradient. probe: one first fitted on those
    features; the run, under any method, starts from it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        ok = 0.01 <= self.temperature <= 1000
        accepted = "a number from 0.01 to 1000"
        require(ok, f"regularizers.{self.name}.temperature", self.temperature, accepted)


@dataclass(frozen=True)
class DiversityConfig(TermConfig):
    """Keep the outputs spread out (representation collapse)."""

    name: ClassVar[str] = "diversity"

    weight: float = 0.005
    schedule: Schedule = "two-phase"
    top_k: int | None = 20
    """Language models: entropy over each token's top_k logits; null for the whole vocabulary."""

    def __post_init__(self) -> None:
        super().__post_init__()
        ok = self.top_k is None or self.top_k >= 2
        accepted = "null or a whole number of at least 2"
        require(ok, f"regularizers.{self.name}.top_k", self.top_k, accepted)


@dataclass(frozen=True)
class SvdConfig(TermConfig):
    """Concentrate the logits on their leading directions (overfitting to noise)."""

    name: ClassVar[str] = "svd"

    weight: float = 0.005
    schedule: Schedule = "two-phase"
    k: int = 10
    """Number of leading singular values."""
    norm: Literal["frobenius", "nuclear"] = "frobenius"
    """Language models: the divisor of their sum, the Frobenius norm (2026) or the sum of all
    singular values (2024, and classification)."""
    method: Literal["subspace", "exact", "randomized"] = "subspace"
    """Language models: how they are computed, by subspace (block iterations, to 1e-4), exact (a
    full decomposition), or randomized, the official code's svd_lowrank, for comparison."""
    groups: int = 1
    """Equal parts of a micro-batch that each have a term of their own, which is averaged. 1: the
    term sees the whole micro-batch, on any number of devices; the number of devices: the official
    code's per-device reading."""

    def __post_init__(self) -> None:
        super().__post_init__()
        accepted = "a whole number of at least 1"
        require(self.k >= 1, f"regularizers.{self.name}.k", self.k, accepted)
        require(self.groups >= 1, f"regularizers.{self.name}.groups", self.groups, accepted)


@dataclass(frozen=True)
class RegularizersConfig:
    """The terms added to the task's loss; they act under method ba-lora only."""

    consistency: ConsistencyConfig = field(default_factory=ConsistencyConfig)
    diversity: DiversityConfig = field(default_factory=DiversityConfig)
    svd: SvdConfig = field(default_factory=SvdConfig)

    @property
    def terms(self) -> dict[str, TermConfig]:
        """Every term's section by name, those of registered terms included."""
        return {part.name: getattr(self, part.name) for part in dataclasses.fields(self)}

    @property
    def acting(self) -> dict[str, TermConfig]:
        """The sections of the terms whose weight is above 0, by name."""
        return {name: term for name, term in self.terms.items() if term.weight > 0}


# The sections of registered terms, by name; those of the paper are fields of RegularizersConfig.
REGISTERED: dict[str, type[TermConfig]] = {}


def add_section(name: str) -> None:
    """Give a registered term a section of its own, with a weight and a schedule."""
    REGISTERED[name] = dataclasses.make_dataclass(
        f"{name.title().replace('_', '')}Config",
        [],
        bases=(TermConfig,),
        namespace={"name": name, "__doc__": f"The registered term {name}."},
        frozen=True,
    )


def regularizers_config() -> type[RegularizersConfig]:
    """The class of the section `regularizers`, with a field for every registered term.

    Returns:
      RegularizersConfig, or a subclass of it.
    """
    return _with_fields(tuple(REGISTERED.values()))


@functools.cache
def _with_fields(sections: tuple[type[TermConfig], ...]) -> type[RegularizersConfig]:
    if not sections:
        return RegularizersConfig
    extra = [(section.name, section, field(default_factory=section)) for section in sections]
    return dataclasses.make_dataclass(
        "RegularizersConfig", extra, bases=(RegularizersConfig,), frozen=True
    )
