"""The options of `balora predict`."""

from dataclasses import dataclass, field

from balora_jax.config.check import LARGEST_SEED, require
from balora_jax.config.generate import LARGEST_LENGTH, LARGEST_TEMPERATURE, SMALLEST_TEMPERATURE
from balora_jax.config.mesh import HostsConfig
from balora_jax.config.paths import check_new_file, check_run_folder
from balora_jax.errors import BadInput

SUFFIXES = (".jsonl", ".csv")
LARGEST_LIMIT = 10**9
LARGEST_BATCH = 65536


@dataclass(frozen=True)
class PredictOptions:
    """The options of `balora predict`."""

    run: str
    """A run's folder; its model, adapters, fields and prompt template are used."""
    data: str
    """The rows to answer: a jsonl, json, csv or parquet file, or a hub id. They need no answers."""
    out: str
    """The new file: .jsonl or .csv; each row of the data, with `prediction` added."""
    checkpoint: str = "latest"
    """The run's checkpoint: a step, latest, or best (by held-out loss)."""
    split: str = "test"
    """The split of a hub data set."""
    limit: int | None = None
    """Answer the first rows only, 1 to 1000000000; null for all."""
    batch_size: int = 32
    """Rows of a classifier or a text-to-text model answered at once, 1 to 65536."""
    max_new_tokens: int = 256
    """The most tokens of a language model's answer, 1 to 1000000."""
    temperature: float = 0.0
    """Of a language model: 0 takes the likeliest token; the higher (0.001 to 100), the more random
    the draws."""
    top_p: float = 1.0
    """Of a language model: draw from the likeliest tokens that make up this share."""
    stop: list[str] | None = None
    """Of a language model: texts that end an answer."""
    seed: int = 0
    """The random seed of the draws."""
    mesh: HostsConfig = field(default_factory=HostsConfig)
    """The processes of several hosts."""

    def __post_init__(self) -> None:
        self._check_numbers()
        if "" in (self.stop or ()):
            raise BadInput("--stop has an empty text; accepted: texts of at least one character")
        check_run_folder("--run", self.run, must_exist=True)
        check_new_file("--out", self.out, SUFFIXES)

    def _check_numbers(self) -> None:
        warm = SMALLEST_TEMPERATURE <= self.temperature <= LARGEST_TEMPERATURE
        degrees = f"0, or a number from {SMALLEST_TEMPERATURE} to {LARGEST_TEMPERATURE}"
        require(self.temperature == 0 or warm, "--temperature", self.temperature, degrees)
        require(0 < self.top_p <= 1, "--top_p", self.top_p, "a share above 0, at most 1")
        for name, smallest, largest in (
            ("limit", 1, LARGEST_LIMIT),
            ("batch_size", 1, LARGEST_BATCH),
            ("max_new_tokens", 1, LARGEST_LENGTH),
            ("seed", 0, LARGEST_SEED),
        ):
            value = getattr(self, name)
            fits = value is None or smallest <= value <= largest
            require(fits, f"--{name}", value, f"a whole number from {smallest} to {largest}")
