"""The data sets, and how their examples become tokens."""

import dataclasses
import functools
from dataclasses import dataclass, field
from typing import Any, Literal

from balora_jax.config.check import LARGEST, require
from balora_jax.config.sources import Source, parse_sources

# Of the size of the scores, at least this lies between them: float32 tells them apart.
SMALLEST_RANGE = 1e-4


@dataclass(frozen=True)
class DataConfig:
    """The data sets, and how their examples become tokens."""

    train: str | list[str | dict[str, Any]] | None = None
    """Training set: a jsonl, json, csv or parquet file, a folder or a pattern of them
    (data/*.jsonl), or a hub id; each with its first N rows alone as NAME:N. Or a list of them, of
    which each may be a mapping of source, subset, split, limit, weight (the part of the drawn
    examples that are its own) and fields. Null for the hub's copy of a GLUE task."""
    eval: str | list[str] | None = None
    """Held-out set: a file, a folder, a pattern or a hub id (classification: one or several). Null:
    none, or the GLUE task's own where train is null."""
    eval_share: float | None = None
    """Hold out this share of the training rows instead, above 0 and below 1: the same rows whatever
    the seed, and of each source and each of a classifier's classes the same share."""
    task: str | None = None
    """Classification: GLUE task (cola, sst2, mrpc, stsb, qqp, mnli, qnli, rte, wnli); sets the
    fields, labels and metrics."""
    labels: list[str] | int | None = None
    """Classification without task: names of the classes, or their number."""
    scores: list[float] | None = None
    """Regression without task: the lowest and the highest score."""
    eval_ood: str | list[str] | None = None
    """Classification: out-of-domain sets with the same fields, evaluated at the end of the run."""
    predict: str | list[str] | None = None
    """Classification: sets to write predictions for, to predictions/ in GLUE's submission format;
    test for the hub's test sets of the task."""
    subset: str | None = None
    """Configuration of a hub data set (gsm8k: main)."""
    train_split: str = "train"
    """Split of a hub data set to train on."""
    eval_split: str = "test"
    """Split of a hub data set to evaluate on."""
    fields: dict[str, str] = field(default_factory=dict)
    """Names of the data set's fields where they differ from instruction, input (optional) and
    response, also within fields, such as instances.0.output; for classification without task, from
    text, text_pair (optional) and label. Sets of prompt and completion, question and answer,
    Alpaca's output, text alone, or conversations (messages, conversations) are recognized."""
    template: str = "alpaca"
    """Prompt: alpaca, chat (the tokenizer's chat template), plain (no prompt: every token counts in
    the loss), or a text with {instruction}, {input} or any field's name in braces."""
    loss_on: Literal["all", "last"] = "all"
    """Of conversations (messages of role and content, or ShareGPT's, with template chat): count all
    turns of the assistant, or the last one."""
    max_length: int = 512
    """Most tokens of an example: prompt and response, or the classified text or pair."""
    packing: bool | None = None
    """Language models: put several examples into each row, none of which sees another, so that
    little is padding; losses and gradients are those of one example a row. False: one example a
    row, padded to one of a few lengths. Null: true, unless a registered term reads the logits of
    a whole batch, in which it might tell rows apart, or model.attention is cudnn, which attends to
    whole rows."""
    cache: bool = True
    """Language models: keep tokenized sets in balora_jax/tokens in the user's cache folder, where
    later starts with the same files, tokenizer and options find them. False: tokenize anew."""
    limit: int | None = None
    """Train on the first rows only, this many of each source; null for all."""
    eval_limit: int | None = None
    """Evaluate on the first rows only, this many of each held-out set, and with eval_share of each
    source; null for all."""
    probes: Literal["tiny-world"] | None = None
    """Also measure the planted defects before and after training: tiny-world, for the model and
    data of balora_jax.evaluation.tiny_world.make."""

    def __post_init__(self) -> None:
        # Refuses what cannot be read.
        self._parsed  # noqa: B018
        length_ok = self.max_length >= 2
        require(length_ok, "data.max_length", self.max_length, "a whole number of at least 2")
        self._check_targets()
        for key in ("eval", "eval_ood", "predict"):
            not_empty = getattr(self, key) != []
            require(not_empty, f"data.{key}", [], "null, a set, or a list of at least one")
        predict_ok = self.predict != "test" or self.task is not None
        require(
            predict_ok,
            "data.predict",
            self.predict,
            "a file or a hub name, or with data.task `test`",
        )
        fields_ok = self.task is None or not self.fields
        require(
            fields_ok,
            "data.fields",
            self.fields,
            f"nothing beside data.task {self.task}, which has its own",
        )
        share_ok = self.eval_share is None or 0 < self.eval_share < 1
        require(share_ok, "data.eval_share", self.eval_share, "a number above 0 and below 1")
        alone = self.eval_share is None or (self.eval is None and self.train is not None)
        require(alone, "data.eval_share", self.eval_share, "with data.train, and without data.eval")
        twice = [name for name in self.source_names if self.source_names.count(name) > 1]
        require(
            self.eval_share is None or not twice,
            "data.train",
            twice,
            "each source once, with data.eval_share, which holds out rows of each",
        )
        for key in ("limit", "eval_limit"):
            value = getattr(self, key)
            limit_ok = value is None or value >= 1
            require(limit_ok, f"data.{key}", value, "null or a whole number of at least 1")

    def _check_targets(self) -> None:
        """Check the range of the scores and the number of classes."""
        if self.scores is not None:
            low, high = self.scores if len(self.scores) == 2 else (0, 0)
            size = max(abs(low), abs(high))
            scores_ok = size <= LARGEST and high - low >= SMALLEST_RANGE * max(size, 1)
            accepted = (
                f"null, or the lowest score and the highest, of at most {LARGEST} in size and not "
                "all but equal"
            )
            require(scores_ok, "data.scores", self.scores, accepted)
        if self.labels is not None:
            is_count = isinstance(self.labels, int)
            count = self.labels if is_count else len(set(self.labels))
            accepted = "null, two or more names, or a whole number of at least 2"
            require(count >= 2, "data.labels", self.labels, accepted)

    @property
    def holds_out(self) -> bool:
        """True if the run has a held-out set: `eval`, a share of `train`, or a GLUE task's own."""
        return self.eval is not None or self.eval_share is not None or self.train is None

    @functools.cached_property
    def _parsed(self) -> tuple[Source, ...]:
        """The training sources; the file system is asked once what their names mean."""
        return () if self.train is None else parse_sources(self.train)

    @functools.cached_property
    def sources(self) -> "tuple[DataConfig, ...]":
        """The section of each training source, as if there were no other."""
        if self.train is None:
            return (self,)
        return tuple(
            dataclasses.replace(
                self,
                train=source.source,
                subset=source.subset or self.subset,
                train_split=source.split or self.train_split,
                limit=source.limit or self.limit,
                fields=self.fields if source.fields is None else source.fields,
            )
            for source in self._parsed
        )

    @property
    def weights(self) -> tuple[float, ...] | None:
        """The weight of each training source; None where every row comes equally often."""
        if self.train is None:
            return None
        weights = tuple(source.weight for source in self._parsed)
        return None if None in weights else weights

    @property
    def source_names(self) -> list[str]:
        """The training sources by name; [] for the hub's copy of a GLUE task."""
        return [source.source for source in self._parsed]
