"""The options of `balora audit`."""

import pathlib
from dataclasses import dataclass, field

from balora_jax.config.addresses import is_address
from balora_jax.config.check import require
from balora_jax.config.mesh import HostsConfig
from balora_jax.config.paths import FILE, check_output, check_path, check_run_folder
from balora_jax.errors import BadInput

LARGEST_LIMIT = 1_000_000
SMALLEST_BATCH = 16
LARGEST_BATCH = 2**24


@dataclass(frozen=True)
class AuditOptions:
    """The options of `balora audit`."""

    run: list[str]
    """Folders of runs of one base model; also --run DIR several times."""
    text: str | None = None
    """General text that no run was trained on: a .txt file of paragraphs with empty lines between,
    or .jsonl with a field text. By default the corpus of a tiny world."""
    templates: str | None = None
    """A file of templates such as `The nurse said that {he|she} was late.`"""
    checkpoint: str = "latest"
    """The runs' checkpoint: a step, latest, or best (by held-out loss)."""
    limit: int = 200
    """The most passages of text, held-out examples and training examples to read, 1 to 1000000."""
    batch_tokens: int = 2048
    """Tokens of a batch, padding included, 16 to 16777216."""
    out: str | None = None
    """The folder to write; audit/ in the first run's folder by default."""
    mesh: HostsConfig = field(default_factory=HostsConfig)
    """The processes of several hosts."""

    def __post_init__(self) -> None:
        if not self.run:
            raise BadInput("--run names no run; accepted: --run DIR, once for each run")
        for name, smallest, largest in (
            ("limit", 1, LARGEST_LIMIT),
            ("batch_tokens", SMALLEST_BATCH, LARGEST_BATCH),
        ):
            value = getattr(self, name)
            fits = smallest <= value <= largest
            require(fits, f"--{name}", value, f"a whole number from {smallest} to {largest}")
        paths: set[str | pathlib.Path] = set()
        for run in self.run:
            check_run_folder("--run", run, must_exist=True)
            address = run.rstrip("/")
            path = address if is_address(run) else pathlib.Path(run).expanduser().resolve()
            if path in paths:
                raise BadInput(f"--run has {run[:200]} twice; accepted: different runs")
            paths.add(path)
        for name in ("text", "templates"):
            value = getattr(self, name)
            if value is not None:
                check_path(f"--{name}", value, kind=FILE, must_exist=True)
        if self.out is not None:
            check_output("--out", self.out)
