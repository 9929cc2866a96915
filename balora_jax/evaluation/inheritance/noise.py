"""Noise fitting: wrong answers of the training set that a model has learned by heart."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy.stats import rankdata

from balora_jax.evaluation.language_model import LanguageModel
from balora_jax.evaluation.statistics import Interval, bootstrap_mean

MOST_SUSPECT = 10
# (prompt, answer): the tokens of each.
Pair = tuple[Sequence[int], Sequence[int]]


@dataclasses.dataclass(frozen=True)
class Suspect:
    """A training example whose answer may be wrong.

    Attributes:
      example: its index.
      loss_before: the mean loss of its answer's tokens in the base, nats.
      loss_after: in the fine-tuned model, which was trained on it.
    """

    example: int
    loss_before: float
    loss_after: float


@dataclasses.dataclass(frozen=True)
class NoiseFit:
    """The fit of a model to the noise of its training set.

    Attributes:
      memorized: the share of known-wrong answers whose every token is the model's likeliest, 0 to
        1; None where no wrong answer is known. What the base would have said anyway counts too:
        compare it with `memorized_before`.
      memorized_before: that share of the base.
      wrong: the number of known-wrong answers.
      suspects: the examples with the largest losses in both models together, by the mean of their
        ranks: neither the base nor training explains their answers. Rare answers that are right are
        among them.
    """

    memorized: Interval | None
    memorized_before: Interval | None
    wrong: int
    suspects: tuple[Suspect, ...]


def measure_noise(
    base: LanguageModel,
    tuned: LanguageModel,
    examples: Sequence[Pair],
    wrong: Sequence[Pair],
) -> NoiseFit:
    """Measure how far a fine-tuned model has learned wrong answers.

    Args:
      base: the model before fine-tuning.
      tuned: the fine-tuned model.
      examples: prompts and answers of the training set, at least one.
      wrong: those whose answers are known to be wrong; empty if none are known.

    Returns:
      The fit.
    """
    before = _losses(base, examples)
    after = _losses(tuned, examples)
    suspicion = rankdata(before) + rankdata(after)
    return noise_fit(suspicion, before, after, _said(base, wrong), _said(tuned, wrong))


def noise_fit(
    suspicion: np.ndarray,
    before: np.ndarray,
    after: np.ndarray,
    said_before: np.ndarray,
    said_after: np.ndarray,
) -> NoiseFit:
    """Collect what two models say of the answers of a training set.

    Args:
      suspicion: [examples], larger where an answer is more likely to be wrong.
      before: [examples], the losses in the base.
      after: [examples], the losses in the fine-tuned model.
      said_before: bool [wrong], whether the base says the answers that are known to be wrong.
      said_after: bool [wrong], whether the fine-tuned model does.

    Returns:
      The fit, with the examples of the largest suspicion.
    """
    order = np.argsort(-suspicion, kind="stable")[:MOST_SUSPECT]
    suspects = [Suspect(int(i), float(before[i]), float(after[i])) for i in order]
    is_known = len(said_after) > 0
    return NoiseFit(
        memorized=bootstrap_mean(said_after) if is_known else None,
        memorized_before=bootstrap_mean(said_before) if is_known else None,
        wrong=len(said_after),
        suspects=tuple(suspects),
    )


def _losses(model: LanguageModel, pairs: Sequence[Pair]) -> np.ndarray:
    """The mean loss of each answer's tokens, float64 [pairs]."""
    losses = np.zeros(len(pairs))
    for index, score in model.scores(pairs):
        losses[index] = -score.log_likelihood / score.tokens
    return losses


def _said(model: LanguageModel, wrong: Sequence[Pair]) -> np.ndarray:
    """True for answers whose every token is the likeliest, bool [wrong]."""
    greedy = np.zeros(len(wrong), bool)
    for index, score in model.scores(wrong):
        greedy[index] = score.greedy
    return greedy
