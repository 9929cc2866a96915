"""The optimizer and the updates."""

import math
import re
from dataclasses import dataclass, field
from typing import Literal

from balora_jax.config.check import require
from balora_jax.errors import BadInput

# Far above any rate that trains.
LARGEST_RATE = 100


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer and its learning rate."""

    name: Literal["adamw", "lion", "adafactor", "muon", "schedule_free"] = "adamw"
    """adamw. lion: the sign of a mean gradient, with half of AdamW's state; its authors take a
    tenth to a third of AdamW's learning rate, and b2 0.99. adafactor: second moments by rows and
    columns (of matrices of at least 128 x 128), without a first moment. muon: the orthogonalized
    momentum of each matrix of adapters and layers, with half of AdamW's state and scaled to its
    updates' size, so that its learning rates hold; embeddings, heads, norms and biases by adamw.
    schedule_free: AdamW at a constant rate, whose averaged weights are evaluated and exported; with
    schedule constant."""
    learning_rate: float = 2e-5
    """Peak learning rate, at most 100."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Decay of the learning rate after the warm-up."""
    warmup: float = 0.03
    """Share of the steps over which the learning rate rises from 0."""
    final: float = 0.0
    """Share of the learning rate that remains at the end."""
    weight_decay: float = 0.0
    """Weight decay of kernels, embeddings and adapters; norms and biases have none."""
    b1: float = 0.9
    """Decay of the first moment (adamw, lion); of Muon's momentum, whose author takes 0.95; share
    of the average in the point of schedule_free's gradients."""
    b2: float = 0.999
    """Decay of AdamW's second moment, and of Lion's memory."""
    eps: float = 1e-8
    """Added to the root of AdamW's second moment."""
    clip_norm: float | None = 1.0
    """Largest global norm of the gradients, which are scaled down to it; null for no clipping."""
    loraplus_lr_ratio: float = 1.0
    """Learning rate of the adapters' B divided by that of A (LoRA+); 1 for none."""
    learning_rates: dict[str, float] = field(default_factory=dict)
    """Peak learning rates of some layers, by patterns as in adapter.targets, such as {lm_head:
    1e-5}; on the same schedule, LoRA+'s ratio included. A pattern that matches a module is for all
    layers in it; of several that match a layer, the first is taken."""
    ema_decay: float | None = None
    """Decay of an exponential moving average of the trained weights, such as 0.999, which takes
    their memory once more. The average, not the last weights, is evaluated and exported. In update
    n at most n / (n + 9) of it is kept, so that short runs do not end near their start. Null for no
    average."""

    def __post_init__(self) -> None:
        rate_ok = 0 < self.learning_rate <= LARGEST_RATE
        accepted = f"a number above 0, at most {LARGEST_RATE}"
        require(rate_ok, "optimizer.learning_rate", self.learning_rate, accepted)
        decay_ok = 0 <= self.weight_decay <= 100
        from_0 = "a number from 0 to 100"
        require(decay_ok, "optimizer.weight_decay", self.weight_decay, from_0)
        eps_ok = 0 < self.eps <= 1
        require(eps_ok, "optimizer.eps", self.eps, "a number above 0, at most 1")
        clip_ok = self.clip_norm is None or self.clip_norm > 0
        require(clip_ok, "optimizer.clip_norm", self.clip_norm, "null or a number above 0")
        ratio_ok = 0 < self.loraplus_lr_ratio <= 1e4
        require(
            ratio_ok,
            "optimizer.loraplus_lr_ratio",
            self.loraplus_lr_ratio,
            "a number above 0, at most 10000",
        )
        self._check_rates()
        self._check_average()
        for key in ("warmup", "final"):
            value = getattr(self, key)
            require(0 <= value <= 1, f"optimizer.{key}", value, "a share from 0 to 1")
        for key in ("b1", "b2"):
            value = getattr(self, key)
            accepted = "a number from 0 up to, not including, 1"
            require(0 <= value < 1, f"optimizer.{key}", value, accepted)
        if self.name == "schedule_free":
            self._check_schedule_free()

    def _check_rates(self) -> None:
        """Check the learning rates of some layers."""
        ok = all(
            math.isfinite(rate) and 0 < rate <= LARGEST_RATE
            for rate in self.learning_rates.values()
        )
        accepted = f"a number above 0, at most {LARGEST_RATE}, for each pattern"
        require(ok, "optimizer.learning_rates", self.learning_rates, accepted)

    def _check_average(self) -> None:
        decay = self.ema_decay
        accepted = "null, or a number above 0 and below 1"
        require(decay is None or 0 < decay < 1, "optimizer.ema_decay", decay, accepted)

    def _check_schedule_free(self) -> None:
        """Check that no option asks for what schedule-free learning does itself."""
        under = "under optimizer.name schedule_free, which averages instead"
        require(
            self.schedule == "constant",
            "optimizer.schedule",
            self.schedule,
            f"constant {under}",
        )
        require(self.final == 0, "optimizer.final", self.final, f"0 {under}")
        require(self.ema_decay is None, "optimizer.ema_decay", self.ema_decay, f"null {under}")
        require(self.b1 > 0, "optimizer.b1", self.b1, "a number above 0 under schedule_free")


@dataclass(frozen=True)
class TrainingConfig:
    """The length of the training, its batches and its precision."""

    steps: int | None = None
    """Number of updates; null where epochs is given."""
    epochs: float | None = None
    """Number of passes over the training set; null where steps is given."""
    batch_size: int = 32
    """Examples per update, over all devices and micro-batches."""
    accumulation: int = 1
    """Micro-batches per update."""
    precision: Literal["float32", "tf32", "bfloat16"] = "bfloat16"
    """Precision of the matrix products: float32, exact on every device; tf32, float32 numbers that
    a device may round before it multiplies them, to tf32 on GPUs and to two or three bfloat16
    numbers on TPUs; bfloat16. Adapters, their gradients, losses and the optimizer stay in
    float32."""
    remat: Literal["auto", "none", "dots", "full"] = "auto"
    """Recomputation in the backward pass: none, dots (everything but products with weights), full
    (whole layers), or auto, the first of them with which the update fits a device's memory."""
    profile: str | None = None
    """Write a trace of these updates, FIRST:LAST such as 10:13, to the run's tensorboard/ folder,
    for TensorBoard's profile plugin or Perfetto; null for none."""
    seed: int = 0
    """Seed of the data order, the adapters' initialization and the dropout."""
    eval_every: int = 0
    """Updates between evaluations, besides those at the start and the end; 0 for only those two."""
    patience: int | None = None
    """Stop after this many evaluations without improvement of the task's first metric (for a
    language model, the held-out loss) and export the best checkpoint. Null: train to the end and
    export the last."""

    def __post_init__(self) -> None:
        given = [key for key in ("steps", "epochs") if getattr(self, key) is not None]
        if len(given) != 1:
            which = "both" if given else "neither"
            raise BadInput(
                f"{which} of training.steps and training.epochs {'are' if given else 'is'} given; "
                "accepted: exactly one of the two, and null for one that a --config file gives"
            )
        at_least_one = "a whole number of at least 1"
        profile_ok = self.profile is None or self.profiled is not None
        accepted = "null, or FIRST:LAST with numbers of updates, such as 10:13"
        require(profile_ok, "training.profile", self.profile, accepted)
        steps_ok = self.steps is None or self.steps >= 1
        require(steps_ok, "training.steps", self.steps, at_least_one)
        epochs_ok = self.epochs is None or 0 < self.epochs <= 1e6
        require(epochs_ok, "training.epochs", self.epochs, "a number above 0, at most 1000000")
        require(self.batch_size >= 1, "training.batch_size", self.batch_size, at_least_one)
        divides = self.accumulation >= 1 and self.batch_size % self.accumulation == 0
        require(
            divides,
            "training.accumulation",
            self.accumulation,
            f"a divisor of training.batch_size {self.batch_size}",
        )
        seed_ok = abs(self.seed) < 2**63
        require(seed_ok, "training.seed", self.seed, "a whole number of at most 63 bits")
        every_ok = self.eval_every >= 0
        require(every_ok, "training.eval_every", self.eval_every, "a whole number of at least 0")
        patience_ok = self.patience is None or (self.patience >= 1 and self.eval_every >= 1)
        require(
            patience_ok,
            "training.patience",
            self.patience,
            "null, or a whole number of at least 1 with training.eval_every",
        )

    @property
    def profiled(self) -> tuple[int, int] | None:
        """The first and the last update of `profile`; None if there are none."""
        found = re.fullmatch(r"([1-9][0-9]{0,8}):([1-9][0-9]{0,8})", self.profile or "")
        if found is None or int(found[1]) > int(found[2]):
            return None
        return int(found[1]), int(found[2])
