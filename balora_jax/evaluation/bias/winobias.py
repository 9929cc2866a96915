"""WinoBias: the preference for pronouns that agree with the stereotype of an occupation.

Zhao, Wang, Yatskar, Ordonez and Chang (2018), arXiv 1804.06876. Each sentence is there twice, with
the pronoun of the stereotyped gender and with the other. The paper asks systems for coreference;
here a causal language model scores both sentences whole, by their log-likelihood.
"""

import dataclasses
import pathlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from balora_jax.data.text_files import text_lines
from balora_jax.errors import BadInput, shown
from balora_jax.evaluation.bias.comparison import Comparison, check_same, compare_items
from balora_jax.evaluation.bias.sentences import sentence_scores
from balora_jax.evaluation.statistics import Interval, bootstrap_mean

TYPES = ("type1", "type2")
# Of each pair of words the first is masculine.
PRONOUNS = (("he", "she"), ("him", "her"), ("his", "her"), ("his", "hers"), ("himself", "herself"))
MASCULINE = frozenset(masculine for masculine, _ in PRONOUNS)
NUMBERED = re.compile(r"(\d+)\s+(\S.*)")
WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Pair:
    """A sentence with each of two pronouns.

    Attributes:
      kind: type1, whose pronoun is resolved by knowledge of the world, or type2, by syntax.
      number: that of the sentence in its file.
      pro: the sentence whose pronoun agrees with the stereotype.
      anti: the same sentence with the other pronoun.
      masculine: True if the pronoun of `pro` is masculine.
    """

    kind: str
    number: int
    pro: str
    anti: str
    masculine: bool


@dataclass(frozen=True)
class Preference:
    """The preference of a model on the sentences of one type.

    Attributes:
      pro: the share of pairs whose stereotyped sentence is likelier, 0 to 1.
      anti: the share of pairs whose other sentence is likelier.
      gap: pro minus anti, -1 to 1; 0 is without preference.
      log_odds: the mean of log P(pro) - log P(anti), nats; 0 is without preference.
      pro_masculine: `pro` where the stereotyped pronoun is masculine; None without such pairs.
      pro_feminine: `pro` where it is feminine; None without such pairs.
      masculine: the share of pairs whose masculine sentence is likelier: a general preference for
        one pronoun moves it away from 0.5, and leaves `gap` near 0.
      items: the number of pairs.
    """

    pro: Interval
    anti: Interval
    gap: Interval
    log_odds: Interval
    pro_masculine: Interval | None
    pro_feminine: Interval | None
    masculine: Interval
    items: int


@dataclass(frozen=True)
class WinoBias:
    """The result of a model on WinoBias.

    It cannot say whether the model resolves pronouns: a sentence is likelier or not whomever its
    pronoun means. It covers English, two genders, and the occupations of US labor statistics.

    Attributes:
      name: the model's.
      preferences: by type.
      pairs: the pairs.
      log_odds: float64 [pairs], log P(pro) - log P(anti), nats.
    """

    name: str
    preferences: dict[str, Preference]
    pairs: tuple[Pair, ...]
    log_odds: np.ndarray

    @property
    def measures(self) -> dict[str, Interval]:
        """The preferences by names such as type1.gap."""
        named = {
            f"{kind}.{field.name}": getattr(preference, field.name)
            for kind, preference in self.preferences.items()
            for field in dataclasses.fields(preference)
        }
        return {name: value for name, value in named.items() if isinstance(value, Interval)}


def read_winobias(folder: pathlib.Path, *, limit: int | None = None) -> tuple[Pair, ...]:
    """Read the sentences of both types, and match them line by line.

    Args:
      folder: of the public files, such as pro_stereotyped_type1.txt.test.
      limit: the number of pairs of each type, from the first; None for all.

    Returns:
      The pairs of the test split that differ in pronouns alone.

    Raises:
      BadInput: a file is missing or is no such file, or two files do not match.
    """
    pairs = []
    for kind in TYPES:
        pro_path, anti_path = (
            folder / f"{side}_stereotyped_{kind}.txt.test" for side in ("pro", "anti")
        )
        pro = _sentences(pro_path)
        anti = _sentences(anti_path)
        if list(pro) != list(anti):
            raise BadInput(
                f"{pro_path} and {anti_path} number their sentences differently; accepted: the "
                "same numbers in the same order"
            )
        for number in list(pro)[:limit]:
            is_masculine = _is_masculine(pro[number], anti[number])
            if is_masculine is not None:
                pairs.append(Pair(kind, number, pro[number], anti[number], is_masculine))
    if not pairs:
        raise BadInput(f"{folder} has no pairs that differ in pronouns alone; accepted: some")
    return tuple(pairs)


def measure_winobias(model: Any, pairs: Sequence[Pair]) -> WinoBias:
    """Compare the log-likelihoods of the sentences of each pair.

    Args:
      model: a `LanguageModel`.
      pairs: from `read_winobias`.

    Returns:
      The preferences, with intervals over pairs.
    """
    texts = [text for pair in pairs for text in (pair.pro, pair.anti)]
    scores = [score.log_likelihood for score in sentence_scores(model, texts)]
    pro, anti = np.array(scores, np.float64).reshape(-1, 2).T
    log_odds = pro - anti
    preferences = {
        kind: _preference(log_odds[chosen], np.array([pairs[i].masculine for i in chosen]))
        for kind, chosen in _types(pairs).items()
    }
    return WinoBias(model.name, preferences, tuple(pairs), log_odds)


def compare_winobias(after: WinoBias, before: WinoBias) -> dict[str, Comparison]:
    """Compare two models on the same pairs.

    Args:
      after: the result of one model.
      before: that of the other.

    Returns:
      The change of each preference by names such as type1.gap; those of shares have McNemar's
      p-value.

    Raises:
      ValueError: the pairs differ.
    """
    check_same(after.pairs, before.pairs)
    comparisons = {}
    for kind, chosen in _types(after.pairs).items():
        masculine = np.array([after.pairs[index].masculine for index in chosen])
        now = _items(after.log_odds[chosen], masculine)
        then = _items(before.log_odds[chosen], masculine)
        for name, values in now.items():
            if len(values):
                comparisons[f"{kind}.{name}"] = compare_items(values, then[name])
    return comparisons


def _preference(log_odds: np.ndarray, masculine: np.ndarray) -> Preference:
    items = _items(log_odds, masculine)
    means = {
        name: bootstrap_mean(values) if len(values) else None for name, values in items.items()
    }
    return Preference(items=len(log_odds), **means)


def _items(log_odds: np.ndarray, masculine: np.ndarray) -> dict[str, np.ndarray]:
    """The items that each preference is the mean of; bool where it is a share."""
    prefers_pro = log_odds > 0
    return {
        "pro": prefers_pro,
        "anti": log_odds < 0,
        "gap": np.sign(log_odds),
        "log_odds": log_odds,
        "pro_masculine": prefers_pro[masculine],
        "pro_feminine": prefers_pro[~masculine],
        "masculine": np.where(masculine, log_odds, -log_odds) > 0,
    }


def _types(pairs: Sequence[Pair]) -> dict[str, np.ndarray]:
    """The pairs of each type that has some."""
    kinds = np.array([pair.kind for pair in pairs])
    chosen = {kind: np.flatnonzero(kinds == kind) for kind in TYPES}
    return {kind: indices for kind, indices in chosen.items() if len(indices)}


def _sentences(path: pathlib.Path) -> dict[int, str]:
    """The sentences of a file by their numbers, without the marks of mentions."""
    accepted = "accepted: the public files of WinoBias, such as pro_stereotyped_type1.txt.test"
    if not path.is_file():
        raise BadInput(f"{path} does not exist; {accepted}")
    sentences = {}
    for line, text in enumerate(text_lines(path), start=1):
        if not text.strip():
            continue
        found = NUMBERED.fullmatch(text.strip())
        if found is None or not found[1].isascii() or len(found[1]) > 6:
            raise BadInput(
                f"{path}, line {line} is {shown(text.strip())}; accepted: a number and a sentence"
            )
        number = int(found[1])
        if number in sentences:
            raise BadInput(f"{path}, line {line} has the number {number} again; {accepted}")
        sentences[number] = _without_marks(found[2])
    return sentences


def _without_marks(sentence: str) -> str:
    """A sentence without the brackets around mentions, and with single spaces."""
    return " ".join(sentence.replace("[", "").replace("]", "").split())


def _is_masculine(pro: str, anti: str) -> bool | None:
    """Return True if the pronoun of `pro` is masculine; None if other words differ too."""
    changes = list(_changes(pro, anti))
    genders = {before in MASCULINE for before, _ in changes}
    allowed = {*PRONOUNS, *((feminine, masculine) for masculine, feminine in PRONOUNS)}
    if len(genders) != 1 or not allowed.issuperset(changes):
        return None
    return genders.pop()


def _changes(pro: str, anti: str) -> Iterator[tuple[str, str]]:
    """Yield the words in which two sentences differ; an empty word if one has more."""
    before = WORD.findall(pro.lower())
    after = WORD.findall(anti.lower())
    if len(before) != len(after):
        yield "", ""
    for pair in zip(before, after, strict=False):
        if pair[0] != pair[1]:
            yield pair
