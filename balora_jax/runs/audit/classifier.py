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
from balora_jax.runs.audit.language_model import is_wrong
from balora_jax.runs.classifiers import Subject

# The measures of the rewind curve.
ACCURACY = "accuracy"
LOSS = "held-out loss"
DRIFT = "drift (1 - cosine)"


@dataclasses.dataclass(frozen=True)
class ClassifierState:
    """The state of one classifier, on the held-out texts.

    Attributes:
      balance: the classes that it predicts.
      entropy: the mean entropy of its predictions, nats.
      rank: the effective rank of the head's inputs.
      separation: of the classes in the head's inputs; None where the texts are of one class, or too
        few.
      gaps: the intervals of the templates by name; empty without templates.
    """

    balance: ClassBalance
    entropy: Interval
    rank: float
    separation: Separation | None
    gaps: dict[str, Interval]


@dataclasses.dataclass(frozen=True)
class ClassifierFindings:
    """The findings on one classifier, beside the one that it began as.

    Attributes:
      name: the run's name on the page.
      method: ba-lora, pissa or lora.
      step: the update of the checkpoint.
      texts: the held-out texts.
      before: the state of the classifier of step 0, which has the run's own first head.
      after: that of the run.
      drift: of the head's inputs from those of step 0, on them.
      geometry: of the change of each kernel.
      noise: the fit to wrong labels of the training set.
      suspects: the texts of its suspects.
      curve: the measures at parts of the learned change, with the trained head.
      best: the point of the curve that keeps most of the gain with the least drift; None where
        there was no gain.
    """

    name: str
    method: str
    step: int
    texts: int
    before: ClassifierState
    after: ClassifierState
    drift: FeatureDrift
    geometry: Geometry
    noise: NoiseFit
    suspects: tuple[str, ...]
    curve: RewindCurve
    best: RewindPoint | None

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
    texts, labels, classes = _held_out(config, tuned, limit)
    features, log_probs = tuned.classifier.read(texts, tuned.mesh)
    base_features, base_log_probs = base.classifier.read(texts, base.mesh)
    curve = _rewind(tuned, base_features, texts, labels)
    noise, suspects = _noise(config, tuned, base, limit)
    asked = ClassTemplates(templates, classes)
    return ClassifierFindings(
        name=name,
        method=config.method,
        step=step,
        texts=len(texts),
        before=_state(base, base_features, base_log_probs, labels, asked),
        after=_state(tuned, features, log_probs, labels, asked),
        drift=measure_feature_drift(base_features, features),
        geometry=measure_geometry(tuned.classifier.params, tuned.classifier.lora),
        noise=noise,
        suspects=suspects,
        curve=curve,
        best=best_trade_off(curve, loss=_error, drift=DRIFT),
    )


def _state(
    subject: Subject,
    features: np.ndarray,
    log_probs: np.ndarray,
    labels: np.ndarray,
    asked: ClassTemplates,
) -> ClassifierState:
    return ClassifierState(
        balance=measure_balance(log_probs.argmax(axis=1), labels, asked.classes),
        entropy=_entropy(log_probs),
        rank=feature_rank(features),
        separation=_separation(features, labels, asked.classes),
        gaps=_gaps(subject, asked),
    )


def _held_out(
    config: RunConfig, subject: Subject, limit: int
) -> tuple[Examples, np.ndarray, tuple[str, ...]]:
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
    first = next(iter(rows.values()))
    texts = _encode(config, subject, first.select(range(min(limit, len(first.rows)))))
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


def _noise(
    config: RunConfig, tuned: Subject, base: Subject, limit: int
) -> tuple[NoiseFit, tuple[str, ...]]:
    """The fit to wrong labels, and the texts of the training examples with the largest losses.

    Of the run's own losses: those of step 0 are those of a head that knew nothing yet.
    """
    task = data.text_task(config.data)
    rows = data.read_train_rows(config.data)
    wrong = [index for index, row in enumerate(rows) if is_wrong(row, task.label_field)]

    def losses(chosen: Sequence[int]) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """The losses of given labels, and whether each is predicted: at step 0, and by the run."""
        texts = _encode(config, tuned, rows.select(chosen))
        labels = np.asarray(texts.labels)
        read = [subject.classifier.read(texts, subject.mesh)[1] for subject in (base, tuned)]
        given = [np.take_along_axis(x.astype(np.float64), labels[:, None], 1)[:, 0] for x in read]
        return [-x for x in given], [x.argmax(axis=1) == labels for x in read]

    first = range(min(limit, len(rows.rows)))
    (before, after), _ = losses(first)
    said = [np.zeros(0, bool)] * 2
    if wrong:
        _, said = losses(wrong[:limit])
    fit = noise_fit(after, before, after, *said)
    suspects = [_text(rows.rows[suspect.example], task) for suspect in fit.suspects]
    return fit, tuple(suspects)


def _text(row: Mapping[str, Any], task: data.TextTask) -> str:
    texts = " | ".join(str(row[field]) for field in task.fields)
    return f"{texts} ⟶ {row[task.label_field]}"


def _gaps(subject: Subject, asked: ClassTemplates) -> dict[str, Interval]:
    if not asked.templates:
        return {}
    measures = CLASSIFIER_TASKS["templates"]
    return dict(measures.intervals(measures.measure(subject.classifier, asked)))
