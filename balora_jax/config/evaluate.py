"""The options of `balora evaluate`."""

from dataclasses import dataclass, field

from balora_jax.config.check import LARGEST_SEED, require
from balora_jax.config.mesh import HostsConfig
from balora_jax.config.paths import FILE, FOLDER, check_output, check_path, check_run_folder
from balora_jax.errors import BadInput, shown

LARGEST_LIMIT = 10**9
LARGEST_FEWSHOT = 1000
SMALLEST_BATCH = 16
LARGEST_BATCH = 2**24


@dataclass(frozen=True)
class EvaluateOptions:
    """The options of `balora evaluate`."""

    run: str | None = None
    """A run's folder; its model and adapters are evaluated."""
    model: str | None = None
    """A Hugging Face folder or hub id, instead of a run."""
    tasks: str = ""
    """Names with commas: tasks of lm-eval (gsm8k, crows_pairs_english, ...) and of ours
    (alpaca_gsm8k, stereoset, ...)."""
    baseline: bool = False
    """Also evaluate the run's model without its adapters, and give the paired difference."""
    checkpoint: str = "latest"
    """The run's checkpoint: a step, latest, or best (by held-out loss)."""
    data_dir: str | None = None
    """A folder with a folder of local files for each task; tasks without one read the hub."""
    templates: str | None = None
    """A file of templates such as `The nurse said that {he|she} was late.`, whose alternatives are
    compared."""
    seat: str | None = None
    """A yaml file of SEAT's tests for the task seat; three tests of names and gender by default."""
    groups: str | None = None
    """For a classifier's run: a field of its held-out rows, whose values are groups to compare."""
    limit: int | None = None
    """The examples of each task, 1 to 1000000000; null for all. Templates and SEAT are whole."""
    fewshot: int | None = None
    """The examples in each prompt, 0 to 1000; null for as many as the task has."""
    chat: bool = False
    """Render prompts by the tokenizer's chat template."""
    allow_code_execution: bool = False
    """Run the programs that the model writes, in a sandbox; tasks of programs need it."""
    seed: int = 0
    """The random seed of draws."""
    batch_tokens: int = 2048
    """Tokens of a batch, padding included, 16 to 16777216."""
    out: str | None = None
    """The folder to write; evaluation/ in the run's folder by default. A killed evaluation goes on
    from the answers there."""
    mesh: HostsConfig = field(default_factory=HostsConfig)
    """The processes of several hosts."""

    def __post_init__(self) -> None:
        if (self.run is None) == (self.model is None):
            raise BadInput(
                "evaluate needs a run or a model; "
                "accepted: exactly one of --run DIR and --model SOURCE"
            )
        if not self.names and self.templates is None and self.groups is None:
            raise BadInput(
                "--tasks names nothing to evaluate; "
                "accepted: --tasks NAME,NAME with tasks of lm-eval or ours, or --templates FILE"
            )
        if self.baseline and self.run is None:
            raise BadInput("--baseline evaluates a run's model too; accepted: with --run DIR")
        if self.model is not None and self.checkpoint != "latest":
            raise BadInput(
                f"--checkpoint {shown(self.checkpoint)} is of a run; accepted: with --run"
            )
        if self.model is not None and self.out is None:
            raise BadInput("--out is not given; accepted: with --model, a folder to write")
        self._check_numbers()
        self._check_paths()

    @property
    def names(self) -> tuple[str, ...]:
        """The tasks, each once."""
        names = [name.strip() for name in self.tasks.split(",")]
        return tuple(dict.fromkeys(name for name in names if name))

    def _check_numbers(self) -> None:
        for name, smallest, largest in (
            ("limit", 1, LARGEST_LIMIT),
            ("fewshot", 0, LARGEST_FEWSHOT),
            ("batch_tokens", SMALLEST_BATCH, LARGEST_BATCH),
            ("seed", 0, LARGEST_SEED),
        ):
            value = getattr(self, name)
            fits = value is None or smallest <= value <= largest
            require(fits, f"--{name}", value, f"a whole number from {smallest} to {largest}")

    def _check_paths(self) -> None:
        if self.run is not None:
            check_run_folder("--run", self.run, must_exist=True)
        if self.model is not None:
            check_path("--model", self.model, kind=FOLDER)
        if self.data_dir is not None:
            check_path("--data_dir", self.data_dir, kind=FOLDER, must_exist=True)
        for name in ("templates", "seat"):
            value = getattr(self, name)
            if value is not None:
                check_path(f"--{name}", value, kind=FILE, must_exist=True)
        if self.groups is not None and not self.groups.strip():
            raise BadInput("--groups is empty; accepted: a field of the held-out rows")
        if self.seat is not None and "seat" not in self.names:
            raise BadInput(f"--seat is {shown(self.seat)}; accepted: with --tasks seat")
        if self.out is not None:
            check_output("--out", self.out)
