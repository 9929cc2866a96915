"""The options of `balora push`."""

from dataclasses import dataclass

from balora_jax.config.paths import FOLDER, check_path, check_run_folder
from balora_jax.config.repositories import require_repository
from balora_jax.errors import BadInput


@dataclass(frozen=True)
class PushOptions:
    """The options of `balora push`."""

    to: str
    """The repository of the hub, USER/REPO; it is created if it does not exist."""
    run: str | None = None
    """A run's folder, whose adapter/ is pushed as it is."""
    adapter: str | None = None
    """Instead of a run's: a folder that `balora export --out` wrote."""
    private: bool = True
    """Keep the repository private: a new one is made so, and a public one is refused."""

    def __post_init__(self) -> None:
        require_repository("--to", self.to)
        if (self.run is None) == (self.adapter is None):
            raise BadInput("--run and --adapter: one of them must be given, and not both")
        if self.run is not None:
            check_run_folder("--run", self.run, must_exist=True)
        if self.adapter is not None:
            check_path("--adapter", self.adapter, kind=FOLDER, must_exist=True)
