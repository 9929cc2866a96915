"""The findings of an audit on one run of a classifier."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from balora_jax import data
from balora_jax.config import RunConfig
from balora_jax.data import Examples
from balora_jax.errors import BadInput
from balora_jax.evaluation.bias.classifier_tasks import CLASSIFIER_TASKS, ClassTemplates
from balora_jax.evaluation.inheritance.classes import (
    ClassBalance,
    FeatureDrift,
    measure_balance,
    measure_feature_drift,
)
from balora_jax.evaluation.inheritance.collapse import feature_rank
from balora_jax.evaluation.inheritance.geometry import Geometry, measure_geometry
from balora_jax.evaluation.inheritance.noise import NoiseFit, noise_fit
from balora_jax.evaluation.inheritance.rewind import (
    RewindCurve,
    RewindPoint,
    best_trade_off,
    rewind,
)
from balora_jax.evaluation.inheritance.separation import Separation, measure_separation
from balora_jax.evaluation.statistics import Interval, bootstrap_mean
from balora_jax.runs.audit.language_model import TRUTH
from balora_jax.runs.classifiers import Subject

# The measures of the rewind curve.
ACCURACY = "accuracy"
LOSS = "held-out loss"
DRIFT = "drift (1 - cosine)"


@dataclasses.dataclass(frozen=True)
class ClassifierFindings:
    """The findings on one classifier, beside the one that it began as (the base).

    Attributes:
      name: the run's name on the page.
      method: ba-lora, pissa or lora.
      step: the update of the checkpoint.
      texts: the held-out texts.
      drift: of the head's inputs from the base, on them.
      balance: the classes that it predicts.
      base_balance: those of the base.
      entropy: the mean entropy of its predictions, nats.
      base_entropy: that of the base.
      rank: the effective rank of the head's inputs.
      base_rank: that of the base.
      separation: of the classes in the head's inputs.
      base_separation: that of the base.
      geometry: of the change of each kernel.
      noise: the fit to wrong labels of the training set.
      suspects: the texts of its suspects.
      curve: the measures at parts of the learned change, with the trained head.
      best: the point of the curve that keeps most of the gain with the least drift.
      gaps: the intervals of the templates by name; empty without templates.
      base_gaps: those of the base.
    """

    name: str
    method: str
    step: int
    texts: int
    drift: FeatureDrift
    balance: ClassBalance
    base_balance: ClassBalance
    entropy: Interval
    base_entropy: Interval
    rank: float
    base_rank: float
    separation: Separation | None
    base_separation: Separation | None
    geometry: Geometry
    noise: NoiseFit
    suspects: tuple[str, ...]
    curve: RewindCurve
    best: RewindPoint
    gaps: dict[str, Interval]
    base_gaps: dict[str, Interval]

    def to_json(self) -> dict[str, Any]:
        """The findings as an object."""
        return dataclasses.asdict(self) | {"geometry": self.geometry.to_json()}


def find_classifier(
    name: str,
    config: RunConfig,
    step: int,
    tuned: Subject,
    base: Subject,
    templates: Sequence[Any],
    limit: int,
) -> ClassifierFindings:
    """Measure a run's classifier beside the one that it began as.

    Args:
      name: the run's name on the page.
      config: the run's configuration.
      step: the update of the checkpoint.
      tuned: the run's classifier.
      base: that of step 0.
      templates: from `read_templates`; empty for none.
      limit: the most examples of a set.

    Returns:
      The findings.

    Raises:
      BadInput: the run predicts scores, has no held-out set, or its data cannot be read.
    """
    config = _limited(config, limit)
    texts, labels, classes = _held_out(config, tuned)
    features, log_probs = tuned.classifier.read(texts, tuned.mesh)
    base_features, base_log_probs = base.classifier.read(texts, base.mesh)
    curve = _rewind(tuned, base_features, texts, labels)
    noise, suspects = _noise(config, tuned, base)
    asked = ClassTemplates(templates, classes)
    return ClassifierFindings(
        name=name,
        method=config.method,
        step=step,
        texts=len(texts),
        drift=measure_feature_drift(base_features, features),
        balance=measure_balance(log_probs.argmax(axis=1), labels, classes),
        base_balance=measure_balance(base_log_probs.argmax(axis=1), labels, classes),
        entropy=_entropy(log_probs),
        base_entropy=_entropy(base_log_probs),
        rank=feature_rank(features),
        base_rank=feature_rank(base_features),
        separation=_separation(features, labels, classes),
        base_separation=_separation(base_features, labels, classes),
        geometry=measure_geometry(tuned.classifier.params, tuned.classifier.lora),
        noise=noise,
        suspects=suspects,
        curve=curve,
        best=best_trade_off(curve, loss=_error, drift=DRIFT),
        gaps=_gaps(tuned, asked),
        base_gaps=_gaps(base, asked),
    )


def _limited(config: RunConfig, limit: int) -> RunConfig:
    """The configuration with at most so many rows of each set."""
    sizes = {
        name: min(limit, getattr(config.data, name) or limit) for name in ("limit", "eval_limit")
    }
    return dataclasses.replace(config, data=dataclasses.replace(config.data, **sizes))


def _held_out(config: RunConfig, subject: Subject) -> tuple[Examples, np.ndarray, tuple[str, ...]]:
    """The first texts of the first held-out set, their labels and the names of the classes."""
    task = data.text_task(config.data)
    if task.scores is not None:
        raise BadInput(
            f"--run {config.output.dir} predicts scores (data.scores); accepted: a run of a "
            "language model or of a classifier with classes"
        )
    rows = data.read_held_out_rows(config.data)
    if not rows:
        raise BadInput(
            f"--run {config.output.dir} has no held-out set (data.eval is null); accepted: a run "
            "with one"
        )
    texts = _encode(config, subject, next(iter(rows.values())))
    return texts, np.asarray(texts.labels), task.labels


def _encode(config: RunConfig, subject: Subject, rows: data.Rows) -> Examples:
    task = data.text_task(config.data)
    tokenizer = subject.classifier.tokenizer
    return data.encode(rows, task, tokenizer, max_length=config.data.max_length)


def _entropy(log_probs: np.ndarray) -> Interval:
    return bootstrap_mean(-np.sum(np.exp(log_probs) * log_probs, axis=1))


def _separation(
    features: np.ndarray, labels: np.ndarray, classes: Sequence[str]
) -> Separation | None:
    """The separation of the classes; None where the texts are of one class, or too few."""
    if not 1 < len(np.unique(labels)) < len(labels) - 1:
        return None
    return measure_separation(features, labels, classes)


def _rewind(
    tuned: Subject, base_features: np.ndarray, texts: Examples, labels: np.ndarray
) -> RewindCurve:
    def measure(lora: Any) -> dict[str, float]:
        features, log_probs = tuned.classifier.with_lora(lora).read(texts, tuned.mesh)
        chosen = np.take_along_axis(log_probs, labels[:, None], axis=1)
        return {
            DRIFT: measure_feature_drift(base_features, features).distance.value,
            LOSS: -float(np.mean(chosen)),
            ACCURACY: float(np.mean(log_probs.argmax(axis=1) == labels)),
        }

    return rewind(measure, tuned.classifier.lora)


def _error(measures: Mapping[str, float]) -> float:
    return 1 - measures[ACCURACY]


def _noise(config: RunConfig, tuned: Subject, base: Subject) -> tuple[NoiseFit, tuple[str, ...]]:
    """The fit to wrong labels, and the texts of the training examples with the largest losses.

    Of the run's own losses: those of step 0 are those of a head that knew nothing yet.
    """
    task = data.text_task(config.data)
    rows = data.read_train_rows(config.data)
    texts = _encode(config, tuned, rows)
    given = list(rows)
    labels = np.asarray(texts.labels)
    log_probs = [
        subject.classifier.read(texts, subject.mesh)[1].astype(np.float64)
        for subject in (base, tuned)
    ]
    before, after = (-np.take_along_axis(x, labels[:, None], axis=1)[:, 0] for x in log_probs)
    is_wrong = np.array([row.get(TRUTH) not in (None, row[task.label_field]) for row in given])
    said = [(x.argmax(axis=1) == labels)[is_wrong] for x in log_probs]
    fit = noise_fit(after, before, after, *said)
    suspects = [_text(given[suspect.example], task) for suspect in fit.suspects]
    return fit, tuple(suspects)


def _text(row: Mapping[str, Any], task: data.TextTask) -> str:
    texts = " | ".join(str(row[field]) for field in task.fields)
    return f"{texts} ⟶ {row[task.label_field]}"


def _gaps(subject: Subject, asked: ClassTemplates) -> dict[str, Interval]:
    if not asked.templates:
        return {}
    measures = CLASSIFIER_TASKS["templates"]
    return dict(measures.intervals(measures.measure(subject.classifier, asked)))
