"""The run folder."""

from dataclasses import dataclass, field

from balora_jax.config.check import require
from balora_jax.config.repositories import require_repository
from balora_jax.errors import BadInput

LOGGERS = ("tensorboard", "wandb", "mlflow", "trackio")


@dataclass(frozen=True)
class OutputConfig:
    """The run folder."""

    dir: str
    """Folder of the run's files, or its address in a bucket (gs://, s3:// or az://BUCKET/FOLDER)."""
    save_every: int = 100
    """Updates between checkpoints; the last update always gets one."""
    keep: int = 2
    """Number of latest checkpoints to keep, besides the best by held-out loss."""
    resume: bool = False
    """Resume the run in dir, if there is one; with more training.steps or epochs, extend it."""
    overwrite: bool = False
    """Delete the run in dir, if there is one, with its plots and predictions, and start anew."""
    merge: bool = False
    """Also write merged/, the whole model with the adapters merged into its weights."""
    loggers: list[str] = field(default_factory=lambda: ["tensorboard"])
    """Where the run's numbers also go: a list out of tensorboard, wandb, mlflow, trackio."""
    push_to: str | None = None
    """Push the adapter to this repository of the hub, USER/REPO, at the end of the run."""
    push_private: bool = True
    """Keep that repository private: a new one is made so, and a public one is refused."""
    compilation_cache: str | None = None
    """Folder of compiled programs, which later starts read instead of compiling again; off: none.
    Null: JAX_COMPILATION_CACHE_DIR, else balora_jax/compiled in the user's cache folder."""

    def __post_init__(self) -> None:
        if self.resume and self.overwrite:
            raise BadInput(
                "output.resume and output.overwrite are both given; accepted: one of the two"
            )
        at_least_one = "a whole number of at least 1"
        require(self.save_every >= 1, "output.save_every", self.save_every, at_least_one)
        require(self.keep >= 1, "output.keep", self.keep, at_least_one)
        unknown = [name for name in self.loggers if name not in LOGGERS]
        is_set = not unknown and len(set(self.loggers)) == len(self.loggers)
        accepted = f"a list out of {', '.join(LOGGERS)}, each at most once"
        require(is_set, "output.loggers", self.loggers, accepted)
        folder_ok = self.compilation_cache != ""
        require(folder_ok, "output.compilation_cache", "", "null, a folder, or off")
        if self.push_to is not None:
            require_repository("output.push_to", self.push_to)
