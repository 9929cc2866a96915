"""Predicted classes beside the right ones, and the drift of a classifier's hidden states."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from balora_jax.evaluation.language_model import LanguageModel
from balora_jax.evaluation.statistics import Interval, bootstrap_mean


@dataclasses.dataclass(frozen=True)
class ClassBalance:
    """The share of each class among predictions, beside its right share.

    A model that predicts one class too often may have inherited the imbalance of its training set,
    or be unsure and lean to one side: compare the shares with those of the training set.

    Attributes:
      classes: the names.
      predicted: the share of examples that are predicted as each class, 0 to 1.
      right: the share of examples whose right class it is.
      accuracy: the share of right predictions.
      entropy: the entropy of the predicted shares, nats: 0 if every prediction is the same class,
        log(classes) if all are equally often.
    """

    classes: tuple[str, ...]
    predicted: tuple[Interval, ...]
    right: tuple[float, ...]
    accuracy: Interval
    entropy: float


@dataclasses.dataclass(frozen=True)
class FeatureDrift:
    """The distance that the inputs of a classifier's head have moved, on the same texts.

    Attributes:
      distance: 1 - the cosine between a text's features before and after, the mean over texts, 0
        (same direction) to 2.
      alignment: the linear centered kernel alignment (CKA), 1 where the features are the same but
        for a rotation and a scale, to 0.
    """

    distance: Interval
    alignment: float


def measure_balance(
    predictions: np.ndarray, labels: np.ndarray, classes: Sequence[str]
) -> ClassBalance:
    """Count predicted and right classes.

    Args:
      predictions: int [examples].
      labels: int [examples].
      classes: the names.

    Returns:
      The shares, with intervals over examples.
    """
    predictions = np.asarray(predictions)
    labels = np.asarray(labels)
    predicted = [bootstrap_mean(predictions == number) for number in range(len(classes))]
    shares = np.array([interval.value for interval in predicted])
    used = shares[shares > 0]
    return ClassBalance(
        classes=tuple(classes),
        predicted=tuple(predicted),
        right=tuple(float(np.mean(labels == number)) for number in range(len(classes))),
        accuracy=bootstrap_mean(predictions == labels),
        entropy=float(-np.sum(used * np.log(used))) + 0.0,
    )


def predicted_answers(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
) -> np.ndarray:
    """Choose the likeliest of a few answers after each prompt.

    Args:
      model: the model.
      prompts: the tokens of each.
      answers: the tokens of each answer, its end among them.

    Returns:
      int [prompts], the index of the answer with the largest log-likelihood.
    """
    pairs = [(prompt, answer) for prompt in prompts for answer in answers]
    scores = np.zeros(len(pairs))
    for index, score in model.scores(pairs):
        scores[index] = score.log_likelihood
    return scores.reshape(len(prompts), len(answers)).argmax(axis=1)


def measure_feature_drift(before: np.ndarray, after: np.ndarray) -> FeatureDrift:
    """Compare the features of the same texts in two models.

    Kornblith et al., "Similarity of neural network representations revisited" (2019), equation 3
    with linear kernels.

    Args:
      before: [texts, d], of the base.
      after: [texts, d], of the fine-tuned model.

    Returns:
      The drift.
    """
    before = np.asarray(before, np.float64)
    after = np.asarray(after, np.float64)
    norms = np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1)
    cosines = np.sum(before * after, axis=1) / np.maximum(norms, np.finfo(float).tiny)
    left = before - before.mean(axis=0)
    right = after - after.mean(axis=0)
    shared = np.linalg.norm(left.T @ right) ** 2
    own = np.linalg.norm(left.T @ left) * np.linalg.norm(right.T @ right)
    return FeatureDrift(
        bootstrap_mean(np.clip(1 - cosines, 0, 2)), float(shared / own) if own > 0 else 1.0
    )
