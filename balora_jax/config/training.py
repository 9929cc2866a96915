"""How it is trained: the optimizer, the updates, the devices."""

from dataclasses import dataclass
from typing import Literal

from balora_jax.config.check import require


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
        require(
            self.learning_rate > 0,
            "optimizer.learning_rate",
            self.learning_rate,
            "a number above 0",
        )
        require(
            self.weight_decay >= 0,
            "optimizer.weight_decay",
            self.weight_decay,
            "a number of at least 0",
        )
        require(self.eps > 0, "optimizer.eps", self.eps, "a number above 0")
        ok = self.clip_norm is None or self.clip_norm > 0
        require(ok, "optimizer.clip_norm", self.clip_norm, "null or a number above 0")
        for key in ("warmup", "final"):
            value = getattr(self, key)
            require(0 <= value <= 1, f"optimizer.{key}", value, "a share from 0 to 1")
        for key in ("b1", "b2"):
            value = getattr(self, key)
            require(
                0 <= value < 1, f"optimizer.{key}", value, "a number from 0 up to, not including, 1"
            )


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
    """Held-out measures every so many updates (and at the start and the end); 0 for start and end only."""
    patience: int | None = None
    """End the run after so many evaluations without a better one (the task's first metric, or a language model's
    held-out loss), and export the best checkpoint; null to train to the end and export the last."""

    def __post_init__(self) -> None:
        given = [key for key in ("steps", "epochs") if getattr(self, key) is not None]
        require(
            len(given) == 1, "training.steps and training.epochs", given, "exactly one of the two"
        )
        require(
            self.steps is None or self.steps >= 1,
            "training.steps",
            self.steps,
            "a whole number of at least 1",
        )
        require(
            self.epochs is None or self.epochs > 0,
            "training.epochs",
            self.epochs,
            "a number above 0",
        )
        require(
            self.batch_size >= 1,
            "training.batch_size",
            self.batch_size,
            "a whole number of at least 1",
        )
        ok = self.accumulation >= 1 and self.batch_size % self.accumulation == 0
        require(
            ok,
            "training.accumulation",
            self.accumulation,
            f"a divisor of training.batch_size {self.batch_size}",
        )
        require(
            self.eval_every >= 0,
            "training.eval_every",
            self.eval_every,
            "a whole number of at least 0",
        )
        ok = self.patience is None or (self.patience >= 1 and self.eval_every >= 1)
        accepted = "null, or a whole number of at least 1 with training.eval_every"
        require(ok, "training.patience", self.patience, accepted)


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
            require(
                value == -1 or value >= 1,
                f"mesh.{axis}",
                value,
                "-1 or a whole number of at least 1",
            )
        left = [axis for axis in ("data", "fsdp", "tensor") if getattr(self, axis) == -1]
        require(len(left) <= 1, "mesh", left, "-1 on one axis at most")
