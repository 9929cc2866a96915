"""The options of `balora generate`."""

from dataclasses import dataclass, field
from typing import Literal

from balora_jax.config.check import LARGEST, LARGEST_SEED, require
from balora_jax.config.mesh import HostsConfig
from balora_jax.config.paths import (
    FILE,
    FOLDER,
    check_new_file,
    check_path,
    check_run_folder,
)
from balora_jax.errors import BadInput

# Above this the probabilities of a vocabulary are all but equal.
LARGEST_TEMPERATURE = 100
# Below this, but for 0, the quotients of the logits leave the range of float32.
SMALLEST_TEMPERATURE = 0.001
LARGEST_BATCH = 65536
LARGEST_PENALTY = 10
LARGEST_LENGTH = 1_000_000
DEVICES = f"null, or a whole number of at least 1, at most {LARGEST}"


@dataclass(frozen=True)
class GenerateOptions:
    """The options of `balora generate`."""

    run: str | None = None
    """A run's folder; its model, adapters and prompt template are used."""
    model: str | None = None
    """A Hugging Face folder or hub id, instead of a run."""
    adapter: str | None = None
    """A PEFT folder of an adapter for --model, such as a run's adapter/."""
    prompt: str | None = None
    """One prompt; its continuation streams to the terminal."""
    prompts: str | None = None
    """A text file in UTF-8 with a prompt a line, .jsonl with a field prompt or messages (a chat so
    far), or - for standard input; they are continued in batches."""
    out: str | None = None
    """A new .jsonl file for prompts and continuations, instead of standard output."""
    compare: bool = False
    """Also show the continuation of the model without the run's adapters."""
    checkpoint: str = "latest"
    """The run's checkpoint: a step, latest, or best (by held-out loss)."""
    template: str | None = None
    """alpaca, chat, a text with {instruction}, or none. By default the run's; none with --model."""
    max_new_tokens: int = 200
    """The most tokens to add, 1 to 1000000."""
    temperature: float = 0.0
    """0 takes the likeliest token; the higher the temperature (0.001 to 100), the more random the
    draws."""
    top_p: float = 1.0
    """Draw from the likeliest tokens that make up this share of the probability."""
    top_k: int | None = None
    """Draw from so many of the likeliest tokens, 1 to 1000000; null for all."""
    repetition_penalty: float = 1.0
    """Make tokens that are in the text less likely: above 1, at most 10; 1 for no penalty."""
    stop: list[str] | None = None
    """Texts that end a continuation."""
    seed: int = 0
    """The random seed of the draws."""
    batch_size: int = 8
    """Prompts continued at once, 1 to 65536."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Element type of the weights and of the products; null for the run's, with --model float32."""
    fsdp: int | None = None
    """Devices that divide the weights; null for the run's, with --model 1, on several hosts all."""
    tensor: int | None = None
    """Devices that divide each matrix; null for the run's, with --model 1."""
    mesh: HostsConfig = field(default_factory=HostsConfig)
    """The processes of several hosts."""

    def __post_init__(self) -> None:
        if (self.run is None) == (self.model is None):
            raise BadInput(
                "generate needs a run or a model; "
                "accepted: exactly one of --run DIR and --model SOURCE"
            )
        if (self.prompt is None) == (self.prompts is None):
            raise BadInput(
                "generate needs prompts; accepted: exactly one of --prompt TEXT and --prompts FILE"
            )
        if self.compare and self.run is None and self.adapter is None:
            raise BadInput(
                "--compare shows a run beside its model; accepted: with --run DIR or --adapter DIR"
            )
        if self.adapter is not None and self.model is None:
            raise BadInput(
                f"--adapter is {self.adapter[:100]!r}; accepted: with --model SOURCE, its base"
            )
        if self.model is not None and self.checkpoint != "latest":
            raise BadInput(
                f"--checkpoint {self.checkpoint[:100]!r} is of a run; accepted: with --run DIR"
            )
        if self.template == "":
            raise BadInput(
                "--template is empty; accepted: alpaca, chat, a text with {instruction}, or none"
            )
        if "" in (self.stop or ()):
            raise BadInput("--stop has an empty text; accepted: texts of at least one character")
        self._check_numbers()
        self._check_paths()

    def _check_numbers(self) -> None:
        warm = SMALLEST_TEMPERATURE <= self.temperature <= LARGEST_TEMPERATURE
        for name, valid, accepted in (
            (
                "max_new_tokens",
                1 <= self.max_new_tokens <= LARGEST_LENGTH,
                f"a whole number of at least 1, at most {LARGEST_LENGTH}",
            ),
            (
                "temperature",
                self.temperature == 0 or warm,
                f"0, or a number from {SMALLEST_TEMPERATURE} to {LARGEST_TEMPERATURE}",
            ),
            ("top_p", 0 < self.top_p <= 1, "a share above 0, at most 1"),
            (
                "top_k",
                self.top_k is None or 1 <= self.top_k <= LARGEST_LENGTH,
                f"null, or a whole number of at least 1, at most {LARGEST_LENGTH}",
            ),
            (
                "repetition_penalty",
                1 <= self.repetition_penalty <= LARGEST_PENALTY,
                f"a number from 1 to {LARGEST_PENALTY}",
            ),
            (
                "batch_size",
                1 <= self.batch_size <= LARGEST_BATCH,
                f"a whole number of at least 1, at most {LARGEST_BATCH}",
            ),
            ("fsdp", self.fsdp is None or 1 <= self.fsdp <= LARGEST, DEVICES),
            ("tensor", self.tensor is None or 1 <= self.tensor <= LARGEST, DEVICES),
            (
                "seed",
                abs(self.seed) <= LARGEST_SEED,
                "a whole number of at most 63 bits",
            ),
        ):
            require(valid, f"--{name}", getattr(self, name), accepted)

    def _check_paths(self) -> None:
        if self.run is not None:
            check_run_folder("--run", self.run)
        if self.model is not None:
            check_path("--model", self.model, kind=FOLDER)
        if self.adapter is not None:
            check_path("--adapter", self.adapter, kind=FOLDER, must_exist=True)
        if self.prompts not in (None, "-"):
            check_path("--prompts", self.prompts, kind=FILE)
        if self.out is not None:
            check_new_file("--out", self.out, (".jsonl",))
