"""The examples."""

import math
from dataclasses import dataclass, field
from typing import Literal

from balora_jax.config.check import require


@dataclass(frozen=True)
class DataConfig:
    """Where the examples are and how they become tokens."""

    train: str | None = None
    """A jsonl, json, csv or parquet file, or a hub name; null for the hub's copy of a GLUE task."""
    eval: str | list[str] | None = None
    """Held-out examples, likewise (for classification one set or several); null for none, or with train null for the
    task's own."""
    task: str | None = None
    """Classification: a GLUE task (cola, sst2, mrpc, stsb, qqp, mnli, qnli, rte, wnli): fields, labels and metrics."""
    labels: list[str] | int | None = None
    """Classification without task: the names of the classes, or how many there are."""
    scores: list[float] | None = None
    """Regression without task: the lowest and the highest score."""
    eval_ood: str | list[str] | None = None
    """Classification: sets from elsewhere with the same fields, scored at the end beside the held-out ones."""
    predict: str | list[str] | None = None
    """Classification: sets whose predictions are written to predictions/, as GLUE's server takes them; `test` for the
    hub's test sets of the task."""
    subset: str | None = None
    """A hub set's configuration (gsm8k: main)."""
    train_split: str = "train"
    """A hub set's split for training."""
    eval_split: str = "test"
    """A hub set's split for evaluation."""
    fields: dict[str, str] = field(default_factory=dict)
    """Which of the set's fields plays which part, where they have other names: instruction, input (optional), response;
    for classification without task: text, text_pair (where there are two), label."""
    template: str = "alpaca"
    """alpaca, chat (the tokenizer's own), plain (no prompt: every token counts), or a text with {instruction},
    {input} or any field's name in braces."""
    max_length: int = 512
    """Tokens of prompt and response, or of a classified text or pair, together."""
    limit: int | None = None
    """Train on only so many of the first rows; null for all."""
    eval_limit: int | None = None
    """Evaluate on only so many of the first rows; null for all."""
    probes: Literal["tiny-world"] | None = None
    """Also measure, before and after, what was planted in model and data: tiny-world, for the model and data of
    balora_jax.evaluation.tiny_world.make."""

    def __post_init__(self) -> None:
        require(
            self.max_length >= 2, "data.max_length", self.max_length, "a whole number of at least 2"
        )
        ok = self.scores is None or (
            len(self.scores) == 2 and -math.inf < self.scores[0] < self.scores[1] < math.inf
        )
        require(ok, "data.scores", self.scores, "null, or the lowest score and the highest")
        count = (
            2
            if self.labels is None
            else self.labels
            if isinstance(self.labels, int)
            else len(set(self.labels))
        )
        require(
            count >= 2,
            "data.labels",
            self.labels,
            "null, two or more names, or a whole number of at least 2",
        )
        for key in ("eval", "eval_ood", "predict"):
            require(
                getattr(self, key) != [],
                f"data.{key}",
                [],
                "null, a set, or a list of at least one",
            )
        ok = self.predict != "test" or self.task is not None
        require(ok, "data.predict", self.predict, "a file or a hub name, or with data.task `test`")
        ok = self.task is None or not self.fields
        require(
            ok,
            "data.fields",
            self.fields,
            f"nothing beside data.task {self.task}, which has its own",
        )
        for key in ("limit", "eval_limit"):
            value = getattr(self, key)
            require(
                value is None or value >= 1,
                f"data.{key}",
                value,
                "null or a whole number of at least 1",
            )

    @property
    def holds_out(self) -> bool:
        """Whether there are examples to judge by: those of `eval`, or a GLUE task's own."""
        return self.eval is not None or self.train is None
