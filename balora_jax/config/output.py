"""The run folder."""

from dataclasses import dataclass

from balora_jax.config.check import require


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
        require(
            self.save_every >= 1,
            "output.save_every",
            self.save_every,
            "a whole number of at least 1",
        )
        require(self.keep >= 1, "output.keep", self.keep, "a whole number of at least 1")
