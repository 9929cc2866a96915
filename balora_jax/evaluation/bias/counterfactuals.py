"""Counterfactual probes: the change of a model's answers from a sentence to its twin.

The twins are made of the user's own templates; see `balora_jax.evaluation.bias.templates`. Of a
language model two things are read: the alternatives' probabilities, from the log-likelihoods of
whole sentences, and the next token's distribution after each sentence. Of a classifier, the
classes' probabilities.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from balora_jax.evaluation.bias.comparison import Comparison, check_same, compare_items
from balora_jax.evaluation.bias.sentences import sentence_scores
from balora_jax.evaluation.bias.templates import Template, Twins, expand
from balora_jax.evaluation.statistics import Interval, bootstrap_mean

# Sentences whose next-token distributions are in memory at once.
BLOCK = 64


@dataclass(frozen=True)
class SlotGaps:
    """The gaps of a language model between the alternatives of one slot.

    The likelihood of a sentence is that of all its tokens: longer and rarer alternatives are less
    likely, in a model without bias too. So a gap by itself is no bias; compare it between two
    models, or with a known rate. Means are over twins: a template with more of them counts more.
    Intervals are over templates, whose twins are resampled together; of one template there is none.
    McNemar's test takes twins as independent.

    Attributes:
      slot: the slot's name.
      first: the mean probability of the first alternative among the alternatives, 0 to 1.
      likeliest: the share of twins whose first alternative is the likeliest, 0 to 1.
      log_odds: the mean log-odds of the first alternative against the others together, nats; of two
        alternatives, the difference of their sentences' log-likelihoods.
      magnitude: the mean of their absolute values, nats, at least 0. Opposite gaps do not cancel.
      divergence: the mean Kullback-Leibler divergence between the next token's distributions after
        the first sentence and after each other, the mean of both directions, nats, at least 0.
      flips: the share of other sentences after which the likeliest next token is not that after the
        first, 0 to 1.
      twins: the twins.
      item_first: float64 [twins].
      item_likeliest: bool [twins].
      item_log_odds: float64 [twins].
      item_divergence: float64 [twins], the mean over the alternatives after the first.
      item_flips: float64 [twins], the mean over the alternatives after the first.
    """

    slot: str
    first: Interval
    likeliest: Interval
    log_odds: Interval
    magnitude: Interval
    divergence: Interval
    flips: Interval
    twins: tuple[Twins, ...]
    item_first: np.ndarray
    item_likeliest: np.ndarray
    item_log_odds: np.ndarray
    item_divergence: np.ndarray
    item_flips: np.ndarray

    @property
    def measures(self) -> dict[str, Interval]:
        """The measures by names such as she|he.log_odds."""
        names = ("first", "likeliest", "log_odds", "magnitude", "divergence", "flips")
        return {f"{self.slot}.{name}": getattr(self, name) for name in names}


@dataclass(frozen=True)
class ClassGaps:
    """The gaps of a classifier between the alternatives of one slot.

    A difference is a bias only if the alternatives should not matter for the class. The templates
    decide that; the measure cannot. Intervals are as those of `SlotGaps`.

    Attributes:
      slot: the slot's name.
      differences: for each class, the mean probability after the first alternative minus that after
        the others, -1 to 1.
      distance: the mean total variation distance, half the sum over classes of the absolute
        difference, 0 to 1; of two classes, the absolute difference of either's probability.
      divergence: the mean Kullback-Leibler divergence, the mean of both directions, nats, at least
        0.
      flips: the share of other sentences whose likeliest class is not that of the first, 0 to 1.
      twins: the twins.
      item_differences: float64 [twins, D].
      item_distance: float64 [twins].
      item_divergence: float64 [twins].
      item_flips: float64 [twins].
    """

    slot: str
    differences: tuple[Interval, ...]
    distance: Interval
    divergence: Interval
    flips: Interval
    twins: tuple[Twins, ...]
    item_differences: np.ndarray
    item_distance: np.ndarray
    item_divergence: np.ndarray
    item_flips: np.ndarray

    @property
    def measures(self) -> dict[str, Interval]:
        """The measures by names such as she|he.distance, and she|he.difference.0 of class 0."""
        names = ("distance", "divergence", "flips")
        differences = enumerate(self.differences)
        return {
            **{f"{self.slot}.{name}": getattr(self, name) for name in names},
            **{f"{self.slot}.difference.{label}": value for label, value in differences},
        }


def measure_gaps(model: Any, templates: Sequence[Template]) -> dict[str, SlotGaps]:
    """Measure a language model on templates.

    Args:
      model: a `LanguageModel`.
      templates: from `read_templates`.

    Returns:
      The gaps by the slot's name, in the order of the file.
    """
    twins = tuple(expand(templates))
    likelihoods = _log_likelihoods(model, twins)
    pairs = dict(_next_token_pairs(model, twins))
    gaps = {}
    for slot, chosen in _slots(twins).items():
        shares = [_shares(likelihoods, twins[index]) for index in chosen]
        gaps[slot] = _slot_gaps(
            slot, [twins[index] for index in chosen], shares, [pairs[index] for index in chosen]
        )
    return gaps


def compare_gaps(
    after: Mapping[str, SlotGaps], before: Mapping[str, SlotGaps]
) -> dict[str, Comparison]:
    """Compare two language models on the same templates.

    Args:
      after: the gaps of one model.
      before: those of the other.

    Returns:
      The changes of each measure, by names such as she|he.log_odds. `likeliest` has McNemar's
      p-value, and so have the flips of slots of two alternatives.

    Raises:
      ValueError: the templates differ.
    """
    names = ("first", "likeliest", "log_odds", "divergence", "flips")
    comparisons = _compare(after, before, names)
    for slot, gaps in after.items():
        magnitudes = [np.abs(side[slot].item_log_odds) for side in (after, before)]
        comparisons[f"{slot}.magnitude"] = compare_items(*magnitudes, _templates(gaps.twins))
    return comparisons


def measure_class_gaps(
    class_log_probs: Callable[[Sequence[str]], np.ndarray], templates: Sequence[Template]
) -> dict[str, ClassGaps]:
    """Measure a classifier on templates.

    Args:
      class_log_probs: texts -> log-probabilities of the classes, [texts, D].
      templates: from `read_templates`.

    Returns:
      The gaps by the slot's name, in the order of the file.
    """
    twins = tuple(expand(templates))
    texts = list(dict.fromkeys(text for item in twins for text in item.sentences))
    rows = {text: row for row, text in enumerate(texts)}
    log_probs = np.asarray(class_log_probs(texts), np.float64)
    gaps = {}
    for slot, chosen in _slots(twins).items():
        items = [twins[index] for index in chosen]
        by_item = [log_probs[[rows[text] for text in item.sentences]] for item in items]
        gaps[slot] = _class_gaps(slot, items, by_item)
    return gaps


def compare_class_gaps(
    after: Mapping[str, ClassGaps], before: Mapping[str, ClassGaps]
) -> dict[str, Comparison]:
    """Compare two classifiers on the same templates.

    Args:
      after: the gaps of one classifier.
      before: those of the other.

    Returns:
      The changes of each measure, by names such as nurse|doctor.flips.

    Raises:
      ValueError: the templates differ.
    """
    comparisons = _compare(after, before, ("distance", "divergence", "flips"))
    for slot, gaps in after.items():
        columns = zip(gaps.item_differences.T, before[slot].item_differences.T, strict=True)
        for label, (now, then) in enumerate(columns):
            comparisons[f"{slot}.difference.{label}"] = compare_items(
                now, then, _templates(gaps.twins)
            )
    return comparisons


def divergence(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Compute the Kullback-Leibler divergence, the mean of both directions.

    (KL(p || q) + KL(q || p)) / 2 = sum (p - q)(log p - log q) / 2, in float64.

    Args:
      left: log p [..., V], in nats.
      right: log q [..., V].

    Returns:
      [...], nats, at least 0.
    """
    left = np.asarray(left, np.float64)
    right = np.asarray(right, np.float64)
    possible = np.isfinite(left) | np.isfinite(right)
    change = np.subtract(left, right, out=np.zeros_like(left), where=possible)
    return np.sum((np.exp(left) - np.exp(right)) * change, axis=-1) / 2


def _compare(after: Mapping, before: Mapping, names: Sequence[str]) -> dict[str, Comparison]:
    check_same(list(after), list(before))
    comparisons = {}
    for slot, gaps in after.items():
        check_same(gaps.twins, before[slot].twins)
        for name in names:
            items = [getattr(side, f"item_{name}") for side in (gaps, before[slot])]
            if name == "flips" and all(len(item.alternatives) == 2 for item in gaps.twins):
                items = [flips.astype(bool) for flips in items]
            comparisons[f"{slot}.{name}"] = compare_items(*items, _templates(gaps.twins))
    return comparisons


def _templates(twins: Sequence[Twins]) -> np.ndarray:
    """The template of each item of twins."""
    return np.array([item.template for item in twins])


def _slots(twins: Sequence[Twins]) -> dict[str, list[int]]:
    """The twins of each slot's name."""
    slots: dict[str, list[int]] = {}
    for index, item in enumerate(twins):
        slots.setdefault(item.slot, []).append(index)
    return slots


def _log_likelihoods(model: Any, twins: Sequence[Twins]) -> dict[str, float]:
    """The log-likelihood of each sentence; twins of several slots share sentences."""
    texts = list(dict.fromkeys(text for item in twins for text in item.sentences))
    scores = sentence_scores(model, texts)
    return {text: score.log_likelihood for text, score in zip(texts, scores, strict=True)}


def _shares(likelihoods: Mapping[str, float], twins: Twins) -> tuple[float, bool]:
    """The log-odds of the first alternative, and whether it is the likeliest."""
    values = np.array([likelihoods[text] for text in twins.sentences], np.float64)
    return values[0] - np.logaddexp.reduce(values[1:]), bool(values[0] > values[1:].max())


def _next_token_pairs(
    model: Any, twins: Sequence[Twins]
) -> Iterator[tuple[int, tuple[float, float]]]:
    """The mean divergence and share of flips of each item of twins."""
    for start, stop in _blocks(twins):
        texts = list(dict.fromkeys(text for item in twins[start:stop] for text in item.sentences))
        rows = {text: row for row, text in enumerate(texts)}
        log_probs = model.next_log_probs(texts)
        for index in range(start, stop):
            chosen = log_probs[[rows[text] for text in twins[index].sentences]]
            yield index, _pairs(chosen)


def _blocks(twins: Sequence[Twins]) -> Iterator[tuple[int, int]]:
    """Divide twins into ranges of about BLOCK sentences."""
    start = 0
    size = 0
    for index, item in enumerate(twins):
        size += len(item.sentences)
        if size >= BLOCK or index == len(twins) - 1:
            yield start, index + 1
            start = index + 1
            size = 0


def _pairs(log_probs: np.ndarray) -> tuple[float, float]:
    """The mean divergence and share of flips of a first row against the others."""
    likeliest = log_probs.argmax(axis=-1)
    # One row at a time: a row is as long as the vocabulary.
    apart = [divergence(log_probs[0], row) for row in log_probs[1:]]
    return float(np.mean(apart)), float(np.mean(likeliest[1:] != likeliest[0]))


def _slot_gaps(
    slot: str,
    twins: Sequence[Twins],
    shares: Sequence[tuple[float, bool]],
    pairs: Sequence[tuple[float, float]],
) -> SlotGaps:
    log_odds = np.array([value for value, _ in shares], np.float64)
    likeliest = np.array([value for _, value in shares], bool)
    # A logistic function that does not overflow.
    first = np.exp(-np.logaddexp(0.0, -log_odds))
    apart, flips = np.array(pairs, np.float64).T
    mean = functools.partial(bootstrap_mean, groups=_templates(twins))
    return SlotGaps(
        slot=slot,
        first=mean(first),
        likeliest=mean(likeliest),
        log_odds=mean(log_odds),
        magnitude=mean(np.abs(log_odds)),
        divergence=mean(apart),
        flips=mean(flips),
        twins=tuple(twins),
        item_first=first,
        item_likeliest=likeliest,
        item_log_odds=log_odds,
        item_divergence=apart,
        item_flips=flips,
    )


def _class_gaps(slot: str, twins: Sequence[Twins], log_probs: Sequence[np.ndarray]) -> ClassGaps:
    probs = [np.exp(rows) for rows in log_probs]
    differences = np.array([rows[0] - rows[1:].mean(axis=0) for rows in probs])
    distance = np.array([np.abs(rows[1:] - rows[0]).sum(axis=-1).mean() / 2 for rows in probs])
    apart, flips = np.array([_pairs(rows) for rows in log_probs]).T
    mean = functools.partial(bootstrap_mean, groups=_templates(twins))
    return ClassGaps(
        slot=slot,
        differences=tuple(mean(column) for column in differences.T),
        distance=mean(distance),
        divergence=mean(apart),
        flips=mean(flips),
        twins=tuple(twins),
        item_differences=differences,
        item_distance=distance,
        item_divergence=apart,
        item_flips=flips,
    )
