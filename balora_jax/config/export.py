"""The options of `balora merge` and `balora export`."""

from dataclasses import dataclass, field

from balora_jax.config.check import require
from balora_jax.config.mesh import HostsConfig
from balora_jax.config.paths import check_output, check_run_folder
from balora_jax.errors import BadInput

LARGEST_SCALE = 10
LARGEST_RANK = 100_000


@dataclass(frozen=True)
class MergeOptions:
    """The options of `balora merge`."""

    run: str
    """The run's folder."""
    checkpoint: str = "latest"
    """The run's checkpoint: a step, latest, or best (by held-out loss)."""
    out: str | None = None
    """A new folder to write; merged/ in the run's folder by default."""
    scale: float = 1.0
    """The part of the learned change to keep, 0 to 10; balora audit shows what it does (a
    classifier's head stays as it is)."""
    mesh: HostsConfig = field(default_factory=HostsConfig)
    """The processes of several hosts."""

    def __post_init__(self) -> None:
        check_run_folder("--run", self.run, must_exist=True)
        fits = 0 <= self.scale <= LARGEST_SCALE
        require(fits, "--scale", self.scale, f"a number from 0 to {LARGEST_SCALE}")
        if self.scale != 1 and self.out is None:
            raise BadInput(
                f"--scale {self.scale} makes another model than the run's; accepted: with --out DIR"
            )
        if self.out is not None:
            check_output("--out", self.out)


@dataclass(frozen=True)
class ExportOptions(MergeOptions):
    """The options of `balora export`."""

    out: str | None = None
    """A new folder to write; adapter/ in the run's folder by default."""
    rank: int | None = None
    """Compress the change to this rank by singular values, 1 to 100000; what that leaves out is
    printed."""

    def __post_init__(self) -> None:
        super().__post_init__()
        fits = self.rank is None or 1 <= self.rank <= LARGEST_RANK
        require(fits, "--rank", self.rank, f"a whole number from 1 to {LARGEST_RANK}")
        if self.rank is not None and self.out is None:
            raise BadInput(
                f"--rank {self.rank} makes another adapter than the run's; accepted: with --out DIR"
            )
