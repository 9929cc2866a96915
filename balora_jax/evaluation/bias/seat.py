"""SEAT: the association of two sets of target sentences with two sets of attribute sentences.

May, Wang, Bordia, Bowman and Rudinger (2019), arXiv 1903.10561, after the WEAT of Caliskan et al.
(2017), Science 356. In a yaml or JSON file of the user's own:

    tests:
      names and careers:
        targets: {male: [This is John., This is Paul.], female: [This is Amy., This is Joan.]}
        attributes: {career: [This is an office.], family: [This is a home., This is a parent.]}
"""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from balora_jax.errors import BadInput, listed, shown
from balora_jax.evaluation.bias.comparison import Comparison, check_same
from balora_jax.evaluation.bias.input_files import parse_mapping, read_text
from balora_jax.evaluation.bias.word_sets import (
    ARTS,
    CAREER,
    FAMILY,
    FEMALE,
    FEMALE_NAMES,
    FEMALE_RELATIVES,
    MALE,
    MALE_NAMES,
    MALE_RELATIVES,
    MATH,
    MORE_ARTS,
    SCIENCE,
    sentences,
    words_of_sentences,
)
from balora_jax.evaluation.statistics import Interval, bootstrap

OPTION = "--seat"
# Divisions of the targets that the p-value is taken over, as in the authors' code.
DIVISIONS = 100_000
MOST_SENTENCES = 1000
PARTS = ("targets", "attributes")
ACCEPTED = (
    "a yaml file of `tests`, each with two named sets of sentences in `targets` and two in "
    "`attributes`, as in docs/evaluation.md"
)


@dataclass(frozen=True)
class SentenceSets:
    """The sentences of one test.

    Attributes:
      name: the test's.
      targets: the names of two sets and their sentences, at least two.
      attributes: the names of two sets and their sentences, at least one.
      words: the word that each target sentence is made of, those of the first set first; sentences
        of one word are alike, and are resampled together. Empty where each sentence is an item.
    """

    name: str
    targets: dict[str, tuple[str, ...]]
    attributes: dict[str, tuple[str, ...]]
    words: tuple[str, ...] = ()

    @classmethod
    def of_words(
        cls, name: str, targets: Mapping[str, str], attributes: Mapping[str, str]
    ) -> "SentenceSets":
        """Make the sentences of words.

        Args:
          name: the test's.
          targets: the names of two sets, and the words of each with spaces between.
          attributes: likewise.
        """
        return cls(
            name,
            {title: sentences(words) for title, words in targets.items()},
            {title: sentences(words) for title, words in attributes.items()},
            tuple(word for words in targets.values() for word in words_of_sentences(words)),
        )

    @property
    def items(self) -> np.ndarray:
        """The item that each target sentence belongs to: its word, or the sentence itself."""
        count = sum(len(texts) for texts in self.targets.values())
        return np.array(self.words) if self.words else np.arange(count)


@dataclass(frozen=True)
class Association:
    """The result of one test.

    A positive size says that the first targets are nearer to the first attributes, and the second
    targets to the second, than the other way round. It speaks of angles between embeddings, not of
    what a model answers; a small size does not show that there is no bias (May et al., section 5),
    and the authors find results that depend on the sentences. The p-value takes sentences as
    independent, which those of one word are not.

    Attributes:
      test: the test's name.
      effect_size: the difference of the targets' mean associations, in standard deviations of all
        targets' associations: -2 to 2 for sets of equal size. The interval is over the
        targets' words, or over sentences of the user's own.
      p_value: the share of divisions of the targets that have a difference as large, one-sided.
      sets: the sentences.
      associations: float64 [targets], of the first and then of the second targets: the mean cosine
        with the first attributes minus that with the second, -2 to 2.
    """

    test: str
    effect_size: Interval
    p_value: float
    sets: SentenceSets
    associations: np.ndarray

    @property
    def measures(self) -> dict[str, Interval]:
        """The effect size by a name such as WEAT 6.effect_size."""
        return {f"{self.test}.effect_size": self.effect_size}


DEFAULT = (
    SentenceSets.of_words(
        "names, career and family (WEAT 6)",
        {"male names": MALE_NAMES, "female names": FEMALE_NAMES},
        {"career": CAREER, "family": FAMILY},
    ),
    SentenceSets.of_words(
        "math and arts, gender (WEAT 7)",
        {"math": MATH, "arts": ARTS},
        {"male": MALE, "female": FEMALE},
    ),
    SentenceSets.of_words(
        "science and arts, gender (WEAT 8)",
        {"science": SCIENCE, "arts": MORE_ARTS},
        {"male": MALE_RELATIVES, "female": FEMALE_RELATIVES},
    ),
)


def read_sentence_sets(value: str, *, option: str = OPTION) -> tuple[SentenceSets, ...]:
    """Read a file of tests.

    Args:
      value: the path of a yaml or JSON file.
      option: the option that names it, for messages.

    Returns:
      The tests, at least one.

    Raises:
      BadInput: the file is not such a file; the message names the test and the set.
    """
    path, text = read_text(option, value, accepted=ACCEPTED)
    content = parse_mapping(path, text, accepted=ACCEPTED)
    tests = content.get("tests")
    if set(content) != {"tests"} or not isinstance(tests, dict):
        raise BadInput(f"{path} has {listed(content) or 'nothing'}; accepted: {ACCEPTED}")
    if not tests:
        raise BadInput(f"{path} has no test; accepted: {ACCEPTED}")
    return tuple(
        _read_test(f"{path}, test {shown(name)}", name, test) for name, test in tests.items()
    )


def measure_association(sets: SentenceSets, model: Any, *, seed: int = 0) -> Association:
    """Run one test on a model.

    Args:
      sets: from `read_sentence_sets`, or of DEFAULT.
      model: with `embeddings(texts)` -> [texts, d], such as a `TextClassifier`.
      seed: of the divisions.

    Returns:
      The result.
    """
    groups = [*sets.targets.values(), *sets.attributes.values()]
    embedded = np.asarray(model.embeddings([text for group in groups for text in group]))
    ends = np.cumsum([len(group) for group in groups])
    first, second, *attributes = np.split(embedded, ends[:-1])
    near_first = associations(first, *attributes)
    near_second = associations(second, *attributes)
    values = np.concatenate([near_first, near_second])
    is_first = np.arange(len(values)) < len(first)
    interval = bootstrap(_divided_effect_size, values, is_first, groups=sets.items)
    p_value = permutation_p_value(near_first, near_second, seed=seed)
    return Association(sets.name, interval, p_value, sets, values)


def compare_association(after: Association, before: Association) -> dict[str, Comparison]:
    """Compare two models on the same test.

    Args:
      after: the result of one model.
      before: that of the other.

    Returns:
      The change of the effect size, by its name.

    Raises:
      ValueError: the sentences differ.
    """
    check_same([after.sets], [before.sets])
    first = len(next(iter(after.sets.targets.values())))
    is_first = np.arange(len(after.associations)) < first

    def change(now: np.ndarray, then: np.ndarray, is_first: np.ndarray) -> float:
        return _divided_effect_size(now, is_first) - _divided_effect_size(then, is_first)

    difference = bootstrap(
        change, after.associations, before.associations, is_first, groups=after.sets.items
    )
    return {f"{after.test}.effect_size": Comparison(difference)}


def associations(targets: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Compute s(w, A, B) of the paper: the mean cosine with A minus the mean cosine with B.

    Args:
      targets: [targets, d].
      first: A, [sentences, d].
      second: B, [sentences, d].

    Returns:
      float64 [targets], -2 to 2.
    """
    targets, first, second = (_unit(rows) for rows in (targets, first, second))
    return (targets @ first.T).mean(axis=1) - (targets @ second.T).mean(axis=1)


def effect_size(first: np.ndarray, second: np.ndarray) -> float:
    """Compute the effect size of two sets of targets.

    (mean of X - mean of Y) / standard deviation of X and Y together, of one degree of freedom less.

    Args:
      first: [X], associations of the first targets.
      second: [Y], of the second.

    Returns:
      The size; NaN if a set is empty or all associations are equal.
    """
    if not len(first) or not len(second):
        return math.nan
    deviation = np.std(np.concatenate([first, second]), ddof=1)
    difference = np.mean(first) - np.mean(second)
    return float(difference / deviation) if deviation > 0 else math.nan


def permutation_p_value(
    first: np.ndarray, second: np.ndarray, *, seed: int = 0, divisions: int = DIVISIONS
) -> float:
    """Compute the one-sided p-value over divisions of the targets into sets of the same sizes.

    Args:
      first: [X], associations of the first targets.
      second: [Y], of the second.
      seed: of the draws.
      divisions: the most divisions. If there are more they are drawn, and the one at hand is
        counted with them.

    Returns:
      The share of divisions whose first set has a sum as large, or larger.
    """
    values = np.concatenate([first, second])
    size = len(first)
    if math.comb(len(values), size) <= divisions:
        chosen = np.array(list(itertools.combinations(range(len(values)), size)))
        return float(np.mean(_as_large(values[chosen], first)))
    generator = np.random.default_rng(seed)
    count = divisions - 1
    found = 1
    for start in range(0, count, 1000):
        rows = min(1000, count - start)
        drawn = generator.permuted(np.tile(values, (rows, 1)), axis=1)[:, :size]
        found += int(np.count_nonzero(_as_large(drawn, first)))
    return found / divisions


def _as_large(drawn: np.ndarray, first: np.ndarray) -> np.ndarray:
    # The same numbers in another order have a sum that differs in the last bits.
    return drawn.sum(axis=1) >= first.sum() - 1e-12


def _divided_effect_size(values: np.ndarray, is_first: np.ndarray) -> float:
    return effect_size(values[is_first], values[~is_first])


def _unit(rows: np.ndarray) -> np.ndarray:
    rows = np.asarray(rows, np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _read_test(where: str, name: str, test: Any) -> SentenceSets:
    if not isinstance(test, dict) or set(test) != set(PARTS):
        raise BadInput(f"{where} has not `targets` and `attributes` alone; accepted: {ACCEPTED}")
    for part in PARTS:
        sets = test[part]
        if not isinstance(sets, dict) or len(sets) != 2:
            raise BadInput(f"{where} has not two sets in `{part}`; accepted: {ACCEPTED}")
    targets = _read_sets(where, test["targets"], least=2)
    attributes = _read_sets(where, test["attributes"], least=1)
    for part, sets in (("targets", targets), ("attributes", attributes)):
        first, second = map(set, sets.values())
        if first == second:
            raise BadInput(f"{where} has the same sentences in both `{part}`; accepted: {ACCEPTED}")
    return SentenceSets(name, targets, attributes)


def _read_sets(where: str, sets: Mapping[str, Any], *, least: int) -> dict[str, tuple[str, ...]]:
    for name, texts in sets.items():
        is_list = isinstance(texts, list) and least <= len(texts) <= MOST_SENTENCES
        if not is_list or not all(_is_sentence(text) for text in texts):
            raise BadInput(
                f"{where}, set {shown(name)} is {shown(texts)}; accepted: a list of {least} to "
                f"{MOST_SENTENCES:,} sentences in quotes"
            )
        if len(set(texts)) < len(texts):
            raise BadInput(
                f"{where}, set {shown(name)} has a sentence twice; accepted: each sentence once"
            )
    return {name: tuple(texts) for name, texts in sets.items()}


def _is_sentence(text: Any) -> bool:
    """Return True for a text that can be tokenized."""
    if not isinstance(text, str) or not text.strip():
        return False
    return not any("\ud800" <= character <= "\udfff" for character in text)
