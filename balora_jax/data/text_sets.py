"""The sets of a classification run: to train on, held out, from elsewhere, and to predict."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from balora_jax.config import DataConfig
from balora_jax.data.glue import HUB_SET, OTHER_SUBSETS, TextTask, find_task
from balora_jax.data.pairs import LabeledTexts, encode
from balora_jax.data.sources import load_rows
from balora_jax.errors import BadInput

ROLES = ("text", "text_pair", "label")
# What `data.predict` says for the hub's test sets of a GLUE task.
HUB_TEST = "test"


@dataclass(frozen=True)
class TextSets:
    """What a classification run reads.

    Args:
        task: fields, labels and metrics.
        train: what is trained on.
        held_out: the validation sets by name; {} for none.
        elsewhere: out-of-domain sets by name.
        unlabeled: the sets to predict, by the name of their file of predictions.
    """

    task: TextTask
    train: LabeledTexts
    held_out: dict[str, LabeledTexts]
    elsewhere: dict[str, LabeledTexts]
    unlabeled: dict[str, LabeledTexts]

    @property
    def all(self) -> list[LabeledTexts]:
        """Every set there is."""
        return [
            self.train,
            *self.held_out.values(),
            *self.elsewhere.values(),
            *self.unlabeled.values(),
        ]


def text_task(config: DataConfig) -> TextTask:
    """The GLUE task a configuration names, or the one it describes by fields and labels, or scores.

    Raises:
        BadInput: an unknown task or role.
    """
    if config.task is not None:
        return find_task(config.task)
    unknown = sorted(set(config.fields) - set(ROLES))
    if unknown:
        raise BadInput(f"data.fields has {', '.join(unknown)}; accepted: {', '.join(ROLES)}")
    fields = (
        config.fields.get("text", "text"),
        *([config.fields["text_pair"]] if "text_pair" in config.fields else []),
    )
    label = config.fields.get("label", "label")
    if config.scores is not None:
        low, high = config.scores
        return TextTask(
            "data.scores",
            fields,
            (),
            ("pearson", "spearman"),
            {},
            scores=(low, high),
            label_field=label,
        )
    labels = (
        config.labels
        if isinstance(config.labels, list)
        else [str(number) for number in range(config.labels)]
    )
    metrics = ("accuracy", "f1" if len(labels) == 2 else "macro_f1")
    return TextTask(
        "data.labels", fields, tuple(labels), metrics, {}, label_field=label, submits_names=True
    )


def read_text_sets(
    config: DataConfig, tokenizer: Any, encode: Callable[..., LabeledTexts] = encode
) -> TextSets:
    """Load and tokenize every set of a run.

    Args:
        config: where the sets are and what is asked of them.
        tokenizer: a Hugging Face tokenizer with a pad token.
        encode: what makes examples of a set's rows; labels stay numbers, or (`encode_with_answers`) become text too.

    Raises:
        BadInput: a set cannot be loaded, or a row of it is not as the task has it.
    """
    task = text_task(config)

    def read(
        source: str, split: str, limit: int | None = None, labeled: bool = True
    ) -> LabeledTexts:
        subset = config.subset or (task.name if source == HUB_SET else None)
        if source == HUB_SET:
            subset, split = OTHER_SUBSETS.get(split, (subset, split))
        rows = load_rows(source, subset=subset, split=split, limit=limit)
        return encode(rows, task, tokenizer, max_length=config.max_length, labeled=labeled)

    train = read(config.train or HUB_SET, config.train_split, config.limit)
    if config.eval is None and config.train is None:
        held_out = {split: read(HUB_SET, split, config.eval_limit) for split in task.validation}
    else:
        named = _named(_listed(config.eval))
        held_out = {
            name: read(source, config.eval_split, config.eval_limit)
            for name, source in named.items()
        }
    elsewhere = {
        name: read(source, config.eval_split)
        for name, source in _named(_listed(config.eval_ood), parts=2).items()
    }
    if config.predict == HUB_TEST and config.task is not None:
        unlabeled = {
            file: read(HUB_SET, split, labeled=False) for split, file in task.submission.items()
        }
    else:
        sources = _named(_listed(config.predict))
        unlabeled = {
            _file(task, name, len(sources)): read(source, config.eval_split, labeled=False)
            for name, source in sources.items()
        }
    return TextSets(task, train, held_out, elsewhere, unlabeled)


def _listed(sources: str | list[str] | None) -> Sequence[str]:
    return [sources] if isinstance(sources, str) else sources or []


def _named(sources: Sequence[str], parts: int = 1) -> dict[str, str]:
    """Each source by the end of its path without the suffix, as long as it takes to tell them apart.

    Raises:
        BadInput: two are the same, but for a suffix.
    """
    names = ["/".join(PurePath(source).with_suffix("").parts[-parts:]) for source in sources]
    if len(set(names)) == len(names):
        return dict(zip(names, sources, strict=True))
    if parts >= max(len(PurePath(source).parts) for source in sources):
        twice = next(
            source for source, name in zip(sources, names, strict=True) if names.count(name) > 1
        )
        raise BadInput(
            f"{twice} is there twice among {', '.join(sources)}; accepted: sets of different names"
        )
    return _named(sources, parts + 1)


def _file(task: TextTask, name: str, sets: int) -> str:
    """GLUE's own name where the set's name or the task's having but one tells which; else the set's."""
    only = (
        next(iter(task.submission.values()))
        if sets == len(task.submission) == 1
        else f"{name.replace('/', '-')}.tsv"
    )
    return task.submission.get(name, only)
