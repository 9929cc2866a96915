"""The sets of a classification run: training, held-out, out-of-domain and unlabeled."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from balora_jax.config import DataConfig
from balora_jax.data.examples import Examples
from balora_jax.data.glue import HUB_SET, OTHER_SUBSETS, TextTask, find_task
from balora_jax.data.mixtures import make_parts
from balora_jax.data.source_files import SUFFIXES, is_pattern
from balora_jax.data.sources import Rows, join_rows, load_rows
from balora_jax.data.splits import Division, divide
from balora_jax.data.texts import encode
from balora_jax.errors import BadInput, listed, shown

ROLES = ("text", "text_pair", "label")
# The value of `data.predict` that stands for the hub's test sets of a GLUE task.
HUB_TEST = "test"
# Of a number of classes; each of them has a name and a row of the head.
MOST_CLASSES = 10**6


@dataclass(frozen=True)
class TextSets:
    """The sets of a classification run.

    Attributes:
      task: fields, labels and metrics.
      train: the training set.
      held_out: the held-out sets by name; {} for none.
      out_of_domain: the out-of-domain sets by name.
      unlabeled: the sets to predict, by the name of the file of predictions.
    """

    task: TextTask
    train: Examples
    held_out: dict[str, Examples]
    out_of_domain: dict[str, Examples]
    unlabeled: dict[str, Examples]

    @property
    def all(self) -> list[Examples]:
        """Every set."""
        named = (self.held_out, self.out_of_domain, self.unlabeled)
        return [self.train, *(examples for sets in named for examples in sets.values())]


def text_task(config: DataConfig) -> TextTask:
    """Find the GLUE task of a configuration, or make the one that it describes.

    Args:
      config: names a task, or describes one by its fields and its labels or scores.

    Raises:
      BadInput: an unknown task or role.
    """
    if config.task is not None:
        return find_task(config.task)
    unknown = sorted(set(config.fields) - set(ROLES))
    if unknown:
        raise BadInput(f"data.fields has {listed(unknown)}; accepted: {', '.join(ROLES)}")
    fields = [config.fields.get("text", "text")]
    if "text_pair" in config.fields:
        fields.append(config.fields["text_pair"])
    label_field = config.fields.get("label", "label")
    if config.scores is not None:
        low, high = config.scores
        return TextTask(
            name="data.scores",
            fields=tuple(fields),
            labels=(),
            metrics=("pearson", "spearman"),
            submission={},
            scores=(low, high),
            label_field=label_field,
        )
    if isinstance(config.labels, list):
        labels = tuple(config.labels)
    else:
        if config.labels > MOST_CLASSES:
            raise BadInput(
                f"data.labels is {shown(config.labels)}; accepted: at most {MOST_CLASSES} classes"
            )
        labels = tuple(str(number) for number in range(config.labels))
    return TextTask(
        name="data.labels",
        fields=tuple(fields),
        labels=labels,
        metrics=("accuracy", "f1" if len(labels) == 2 else "macro_f1"),
        submission={},
        label_field=label_field,
        submits_names=True,
    )


def read_text_sets(
    config: DataConfig, tokenizer: Any, encode: Callable[..., Examples] = encode
) -> TextSets:
    """Load and tokenize every set of a run.

    Args:
      config: the sources of the sets, and the task.
      tokenizer: a Hugging Face tokenizer with a pad token.
      encode: makes examples of a set's rows: `encode`, whose labels are numbers, or
        `encode_with_answers`, whose labels are text too.

    Raises:
      BadInput: a set cannot be loaded, or a row does not fit the task.
    """
    task = text_task(config)

    def encode_rows(rows: Rows, labeled: bool = True) -> Examples:
        return encode(rows, task, tokenizer, max_length=config.max_length, labeled=labeled)

    def read(source: str, split: str, labeled: bool = True) -> Examples:
        return encode_rows(_load(config, task, source, split), labeled)

    pieces = _train_pieces(config)
    train = _with_parts(encode_rows(join_rows("data.train", pieces)), pieces, config)
    held_out = {name: encode_rows(rows) for name, rows in read_held_out_rows(config).items()}

    out_of_domain = {
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
            _predictions_file(task, name, len(sources)): read(
                source, config.eval_split, labeled=False
            )
            for name, source in sources.items()
        }

    return TextSets(task, train, held_out, out_of_domain, unlabeled)


def _with_parts(train: Examples, pieces: Sequence[Rows], config: DataConfig) -> Examples:
    """Tell the training examples of several sources apart."""
    if len(pieces) == 1:
        return train
    sizes = [len(piece.rows) for piece in pieces]
    descriptions = [f"{size:,} examples" for size in sizes]
    parts = make_parts(sizes, config.source_names, config.weights, descriptions)
    return dataclasses.replace(train, parts=parts, weighted=config.weights is not None)


def read_train_rows(config: DataConfig) -> Rows:
    """Load the rows of the training set, with the fields of the task.

    Args:
      config: as for `read_text_sets`.

    Raises:
      BadInput: it cannot be loaded.
    """
    return join_rows("data.train", _train_pieces(config))


def _train_pieces(config: DataConfig) -> list[Rows]:
    """The training rows of each source."""
    pieces = []
    for source in config.sources:
        task = text_task(source)
        rows = _load(source, task, source.train or HUB_SET, source.train_split, source.limit)
        if source.eval_share is not None:
            rows = rows.select(_divide(source, task, rows).train.tolist())
        pieces.append(_with_fields(rows, task, text_task(config)))
    return pieces


def _with_fields(rows: Rows, own: TextTask, task: TextTask) -> Rows:
    """Give the fields of a source's own the names that the task has for them."""
    old = (*own.fields, own.label_field)
    if old == (*task.fields, task.label_field):
        return rows
    if len(set(old)) < len(old):
        raise BadInput(
            f"the fields of {rows.source} are {listed(old)}; accepted: another field for each role"
        )
    if len(own.fields) != len(task.fields):
        raise BadInput(
            f"{rows.source} has {len(own.fields)} texts in its fields and data.fields "
            f"{len(task.fields)}; accepted: sources that all have text, or all text and text_pair"
        )
    rows.require(old, note=" (data.fields, or fields of the source)")
    new = (*task.fields, task.label_field)
    return rows.rename(dict(zip(old, new, strict=True)))


def read_held_out_rows(config: DataConfig) -> dict[str, Rows]:
    """Load the rows of the held-out sets.

    Args:
      config: as for `read_text_sets`.

    Returns:
      The rows by the set's name; {} for none. With `eval_share`, a set for each source.

    Raises:
      BadInput: a set cannot be loaded.
    """
    task = text_task(config)
    if config.eval_share is not None:
        return _held_out_shares(config)
    if config.eval is None and config.train is None:
        sources = {split: (HUB_SET, split) for split in task.validation}
    else:
        named = _named(_listed(config.eval))
        sources = {name: (source, config.eval_split) for name, source in named.items()}
    return {
        name: _load(config, task, source, split, config.eval_limit)
        for name, (source, split) in sources.items()
    }


def _held_out_shares(config: DataConfig) -> dict[str, Rows]:
    """The rows that are held out of each training source."""
    shares = {}
    for name, source in zip(_named(config.source_names), config.sources, strict=True):
        task = text_task(source)
        rows = _load(source, task, source.train, source.train_split, source.limit)
        held_out = _divide(source, task, rows).held_out[: config.eval_limit]
        shares[name] = _with_fields(rows.select(held_out.tolist()), task, text_task(config))
    return shares


def _divide(config: DataConfig, task: TextTask, rows: Rows) -> Division:
    """Hold out a share of every class, or of all rows with scores."""
    rows.require((task.label_field,))
    if task.scores is not None:
        classes = [None] * len(rows.rows)
    else:
        classes = [str(row.get(task.label_field)) for row in rows]
    return divide(rows.source, classes, config.eval_share)


def _load(
    config: DataConfig, task: TextTask, source: str, split: str, limit: int | None = None
) -> Rows:
    subset = config.subset
    if source == HUB_SET:
        subset, split = OTHER_SUBSETS.get(split, (subset or task.name, split))
    return load_rows(source, subset=subset, split=split, limit=limit)


def _listed(sources: str | list[str] | None) -> Sequence[str]:
    return [sources] if isinstance(sources, str) else sources or []


def _named(sources: Sequence[str], parts: int = 1) -> dict[str, str]:
    """Name each source by the end of its path, without the suffix.

    Names have as many parts of the paths as it takes to tell them apart, and at least `parts`:

        [a/dev.jsonl, b/dev.jsonl]  ->  {a/dev: a/dev.jsonl, b/dev: b/dev.jsonl}

    A pattern is named by what it has before its first star.

    Raises:
      BadInput: two sources are equal but for the suffix.
    """
    names = ["/".join(_name_parts(source)[-parts:]) for source in sources]
    if len(set(names)) == len(names):
        return dict(zip(names, sources, strict=True))
    if parts >= max(len(_name_parts(source)) for source in sources):
        repeated = next(
            source for source, name in zip(sources, names, strict=True) if names.count(name) > 1
        )
        raise BadInput(
            f"{repeated} is there twice among {', '.join(sources)}; "
            "accepted: sets of different names"
        )
    return _named(sources, parts + 1)


def _name_parts(source: str) -> tuple[str, ...]:
    suffix = next((suffix for suffix in SUFFIXES if source.endswith(suffix)), "")
    parts = PurePath(source.removesuffix(suffix)).parts
    return tuple(part for part in parts if not is_pattern(part) and part != "/") or ("data",)


def _predictions_file(task: TextTask, name: str, sets: int) -> str:
    """Return the file of a set's predictions.

    GLUE's file for a set that is called like one of the task's test splits, or where both the run
    and the task have a single set to predict; otherwise a file with the set's name.
    """
    if name in task.submission:
        return task.submission[name]
    if sets == len(task.submission) == 1:
        return next(iter(task.submission.values()))
    return f"{name.replace('/', '-')}.tsv"
