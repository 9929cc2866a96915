"""A run's configuration: frozen dataclasses, one a section, checked before anything compiles.

Fields carry their meaning in the text below them, which `--help` shows. No jax is imported here.
"""

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Literal

from balora_jax.errors import BadInput

Method = Literal["ba-lora", "pissa", "lora", "full"]
PISSA_PATTERN = re.compile(r"pissa(_niter_(\d+))?")
PAPER_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def _require(ok: bool, name: str, value: object, accepted: str) -> None:
    if not ok:
        raise BadInput(f"{name} is {value!r}; accepted: {accepted}")


@dataclass(frozen=True)
class ModelConfig:
    """The pre-trained model."""

    source: str
    """A Hugging Face folder (config.json + safetensors) or a hub id."""
    task: Literal["causal-lm"] = "causal-lm"
    """What the model is trained for: next-token prediction."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """How the frozen weights are stored."""
    tokenizer: str | None = None
    """Where the tokenizer is, if not with the model."""
    revision: str | None = None
    """The hub's branch, tag or commit."""
    from_scratch: bool = False
    """Start from fresh random weights instead of the folder's; for method full."""


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
        _require(self.rank >= 1, "adapter.rank", self.rank, "a whole number of at least 1")
        _require(self.alpha is None or self.alpha > 0, "adapter.alpha", self.alpha, "a number above 0")
        _require(0 <= self.dropout < 1, "adapter.dropout", self.dropout, "a number from 0 up to, not including, 1")
        _require(bool(self.targets), "adapter.targets", self.targets, "at least one name, or all-linear")


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
        _require(0 <= self.weight < float("inf"), f"{name}.weight", self.weight, "a number of at least 0")
        for key in ("final", "delay", "ramp", "warmup"):
            value = getattr(self, key)
            _require(0 <= value <= 1, f"{name}.{key}", value, "a share from 0 to 1")


@dataclass(frozen=True)
class ConsistencyConfig(TermConfig):
    """Stay near the pre-trained model's outputs (knowledge drift)."""

    weight: float = 0.025
    schedule: Literal["constant", "cosine", "two-phase", "linear", "quadratic", "adaptive"] = "cosine"
    """As for the other terms, and adaptive: more weight where the teacher is sure,
    final * weight + (1 - final) * weight * (1 - H_teacher / log V)."""
    temperature: float = 2.0
    """Softmax temperature of both distributions."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self.temperature > 0, "regularizers.consistency.temperature", self.temperature, "a number above 0")


@dataclass(frozen=True)
class DiversityConfig(TermConfig):
    """Keep the outputs spread out (representation collapse)."""

    weight: float = 0.005
    schedule: Literal["constant", "cosine", "two-phase", "linear", "quadratic"] = "two-phase"
    top_k: int | None = 20
    """Entropy over each token's top_k logits; null for the whole vocabulary."""

    def __post_init__(self) -> None:
        super().__post_init__()
        ok = self.top_k is None or self.top_k >= 2
        _require(ok, "regularizers.diversity.top_k", self.top_k, "null or a whole number of at least 2")


@dataclass(frozen=True)
class SvdConfig(TermConfig):
    """Concentrate the logits on their leading directions (overfitting to noise)."""

    weight: float = 0.005
    schedule: Literal["constant", "cosine", "two-phase", "linear", "quadratic"] = "two-phase"
    k: int = 10
    """How many leading singular values count."""
    norm: Literal["frobenius", "nuclear"] = "frobenius"
    """What their sum is divided by: the Frobenius norm (2026) or the sum of all singular values (2024)."""
    method: Literal["subspace", "exact", "randomized"] = "subspace"
    """How they are found: subspace (block iterations, to 1e-4), exact (a whole decomposition), or randomized, the
    official code's svd_lowrank, for comparison."""
    groups: int = 1
    """Equal parts of a micro-batch that each have a term of their own, which is averaged. 1: the term sees the whole
    micro-batch, on however many devices; the number of devices: the official code's per-device reading."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self.k >= 1, "regularizers.svd.k", self.k, "a whole number of at least 1")
        _require(self.groups >= 1, "regularizers.svd.groups", self.groups, "a whole number of at least 1")


@dataclass(frozen=True)
class RegularizersConfig:
    """The three terms added to the task's loss; they act under method ba-lora only."""

    consistency: ConsistencyConfig = field(default_factory=ConsistencyConfig)
    diversity: DiversityConfig = field(default_factory=DiversityConfig)
    svd: SvdConfig = field(default_factory=SvdConfig)


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
        _require(self.max_length >= 2, "data.max_length", self.max_length, "a whole number of at least 2")
        for key in ("limit", "eval_limit"):
            value = getattr(self, key)
            _require(value is None or value >= 1, f"data.{key}", value, "null or a whole number of at least 1")


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW and its learning rate."""

    learning_rate: float = 2e-5
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: float = 0.03
    """Share of the steps over which the learning rate rises from 0."""
    final: float = 0.0
    """Share of the learning rate that is left at the end."""
    weight_decay: float = 0.0
    """Of kernels, embeddings and adapters; norms and biases have none."""
    b1: float = 0.9
    """Decay of AdamW's first moment."""
    b2: float = 0.999
    """Decay of AdamW's second moment."""
    eps: float = 1e-8
    """Added to the root of the second moment."""
    clip_norm: float | None = 1.0
    """Gradients are scaled down to this global norm; null for no clipping."""

    def __post_init__(self) -> None:
        _require(self.learning_rate > 0, "optimizer.learning_rate", self.learning_rate, "a number above 0")
        _require(self.weight_decay >= 0, "optimizer.weight_decay", self.weight_decay, "a number of at least 0")
        _require(self.eps > 0, "optimizer.eps", self.eps, "a number above 0")
        ok = self.clip_norm is None or self.clip_norm > 0
        _require(ok, "optimizer.clip_norm", self.clip_norm, "null or a number above 0")
        for key in ("warmup", "final"):
            value = getattr(self, key)
            _require(0 <= value <= 1, f"optimizer.{key}", value, "a share from 0 to 1")
        for key in ("b1", "b2"):
            value = getattr(self, key)
            _require(0 <= value < 1, f"optimizer.{key}", value, "a number from 0 up to, not including, 1")


@dataclass(frozen=True)
class TrainingConfig:
    """How long, in what portions, in what precision."""

    steps: int | None = None
    """Updates; or leave null and give epochs."""
    epochs: float | None = None
    """How often every example is seen; or leave null and give steps."""
    batch_size: int = 32
    """Examples an update sees, over all devices and micro-batches."""
    accumulation: int = 1
    """Micro-batches an update is made of."""
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    """What the matrix products are computed in; adapters, losses and the optimizer stay in float32."""
    remat: Literal["none", "dots", "full"] = "none"
    """What the backward pass recomputes: nothing, all but the matrix products, or every layer."""
    seed: int = 0
    """Of the order of the examples, the adapters' start and dropout."""
    eval_every: int = 0
    """Held-out loss every so many updates (and at the start and the end); 0 for start and end only."""

    def __post_init__(self) -> None:
        given = [key for key in ("steps", "epochs") if getattr(self, key) is not None]
        _require(len(given) == 1, "training.steps and training.epochs", given, "exactly one of the two")
        _require(self.steps is None or self.steps >= 1, "training.steps", self.steps, "a whole number of at least 1")
        _require(self.epochs is None or self.epochs > 0, "training.epochs", self.epochs, "a number above 0")
        _require(self.batch_size >= 1, "training.batch_size", self.batch_size, "a whole number of at least 1")
        ok = self.accumulation >= 1 and self.batch_size % self.accumulation == 0
        _require(ok, "training.accumulation", self.accumulation, f"a divisor of training.batch_size {self.batch_size}")
        _require(self.eval_every >= 0, "training.eval_every", self.eval_every, "a whole number of at least 0")


@dataclass(frozen=True)
class MeshConfig:
    """How many devices share the batch, the weights and each matrix; -1: all that are left (one axis at most)."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    distributed: bool = False
    """Join the other hosts of a pod or cluster first (jax.distributed.initialize)."""

    def __post_init__(self) -> None:
        for axis in ("data", "fsdp", "tensor"):
            value = getattr(self, axis)
            _require(value == -1 or value >= 1, f"mesh.{axis}", value, "-1 or a whole number of at least 1")
        left = [axis for axis in ("data", "fsdp", "tensor") if getattr(self, axis) == -1]
        _require(len(left) <= 1, "mesh", left, "-1 on one axis at most")


@dataclass(frozen=True)
class OutputConfig:
    """The run folder."""

    dir: str
    """Where the run is written."""
    save_every: int = 100
    """A checkpoint every so many updates (one is always made at the end)."""
    keep: int = 2
    """Checkpoints kept: the latest ones, and the best by held-out loss."""
    resume: bool = False
    """Go on with the run that is in dir, if there is one."""
    merge: bool = False
    """Also write merged/, the whole model with the adapters folded in."""

    def __post_init__(self) -> None:
        _require(self.save_every >= 1, "output.save_every", self.save_every, "a whole number of at least 1")
        _require(self.keep >= 1, "output.keep", self.keep, "a whole number of at least 1")


@dataclass(frozen=True)
class RunConfig:
    """One fine-tuning run."""

    model: ModelConfig
    data: DataConfig
    output: OutputConfig
    training: TrainingConfig
    method: Method = "ba-lora"
    """ba-lora: PiSSA adapters and the three regularizers. pissa, lora: adapters alone. full: every weight."""
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    regularizers: RegularizersConfig = field(default_factory=RegularizersConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)

    def __post_init__(self) -> None:
        micro, groups = self.training.batch_size // self.training.accumulation, self.regularizers.svd.groups
        _require(
            micro % groups == 0,
            "regularizers.svd.groups",
            groups,
            f"a divisor of the {micro} examples a micro-batch has",
        )
        if self.model.from_scratch and self.method != "full":
            raise BadInput(f"model.from_scratch is true under method {self.method}; accepted: method full")
        given = self.adapter.init
        if given is not None and PISSA_PATTERN.fullmatch(given) and self.method == "lora":
            raise BadInput(f"adapter.init is {given!r} under method lora; accepted: lora, or method pissa or ba-lora")
        if given == "lora" and self.method == "pissa":
            raise BadInput("adapter.init is 'lora' under method pissa; accepted: pissa, pissa_niter_N, or method lora")

    @property
    def adapter_init(self) -> str:
        """The initialization in force: what is given, or the method's own."""
        return self.adapter.init or ("lora" if self.method == "lora" else "pissa_niter_16")

    @property
    def active_regularizers(self) -> RegularizersConfig:
        """The regularizers in force: those configured under ba-lora, all at weight 0 under any other method."""
        if self.method == "ba-lora":
            return self.regularizers
        off = {
            term.name: dataclasses.replace(getattr(self.regularizers, term.name), weight=0.0)
            for term in dataclasses.fields(self.regularizers)
        }
        return RegularizersConfig(**off)
