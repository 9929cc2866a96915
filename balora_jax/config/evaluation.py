"""Measures at every evaluation of a run, besides the held-out loss."""

from dataclasses import dataclass, field

from balora_jax.config.check import require

LARGEST_LIMIT = 100_000


@dataclass(frozen=True)
class EvaluationConfig:
    """Measures at every evaluation of a run, besides the held-out loss."""

    probe_text: str | None = None
    """General text on which the model is compared with its untouched base: a .txt file of
    paragraphs with empty lines between, or .jsonl with a field text."""
    probe_limit: int = 32
    """The most passages of that text to read, 1 to 100000."""

    tasks: list[str] = field(default_factory=list)
    """Tasks of lm-eval, and this package's alpaca_ ones, that the model answers at every evaluation
    (extra eval); not those that run programs."""
    task_limit: int = 50
    """The first examples of each task to ask, this many, 1 to 100000."""
    data_dir: str | None = None
    """The folder with local files of the tasks, as for balora evaluate; null for the hub."""

    def __post_init__(self) -> None:
        accepted = f"a whole number from 1 to {LARGEST_LIMIT}"
        for name in ("probe_limit", "task_limit"):
            limit = getattr(self, name)
            require(1 <= limit <= LARGEST_LIMIT, f"evaluation.{name}", limit, accepted)
        used = self.data_dir is None or bool(self.tasks)
        require(used, "evaluation.data_dir", self.data_dir, "with evaluation.tasks")
