"""Texts packed into rows: a beginning that texts share is read once, and little is padding."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import NamedTuple

# A text is put behind another one if they share this part of it, so that only texts that are alike
# need room in the same row.
SHARED_PART = 0.1


class Text(NamedTuple):
    """Tokens to read and tokens to predict.

    Attributes:
      tokens: those that the model reads.
      targets: those that it predicts, after each of the last tokens that it reads; as many as
        `tokens` or fewer.
    """

    tokens: Sequence[int]
    targets: Sequence[int]


@dataclasses.dataclass
class Trie:
    """Texts, with the beginnings that they share once, in depth-first order.

    Attributes:
      size: the most tokens, and the most different predictions.
      tokens: of all texts.
      positions: the tokens before each one in its text.
      ends: the index after the last token that follows each one; None while more may follow.
      predictions: the number of each (place, target).
      members: the index of each text, and the numbers of its predictions.
    """

    size: int
    tokens: list[int] = dataclasses.field(default_factory=list)
    positions: list[int] = dataclasses.field(default_factory=list)
    ends: list[int | None] = dataclasses.field(default_factory=list)
    predictions: dict[tuple[int, int], int] = dataclasses.field(default_factory=dict)
    members: list[tuple[int, list[int]]] = dataclasses.field(default_factory=list)
    # The places of the last text's tokens.
    _path: list[int] = dataclasses.field(default_factory=list)

    def add(self, index: int, text: Text) -> bool:
        """Add a text that begins as the last one does, if it shares enough and there is room.

        Args:
          index: the text's.
          text: the text; after the ones before it in lexicographic order.

        Returns:
          Whether it was added; the first text always is.
        """
        shared = _common(text.tokens, [self.tokens[place] for place in self._path])
        added = len(text.tokens) - shared
        start = len(self.tokens)
        path = [*self._path[:shared], *range(start, start + added)]
        predicting = path[len(path) - len(text.targets) :]
        predicted = list(zip(predicting, text.targets, strict=True))
        new = [prediction for prediction in predicted if prediction not in self.predictions]
        if self.members:
            alike = shared >= SHARED_PART * len(text.tokens)
            room = start + added <= self.size and len(self.predictions) + len(new) <= self.size
            if not (alike and room):
                return False
        for place in self._path[shared:]:
            self.ends[place] = start
        self.tokens.extend(text.tokens[shared:])
        self.positions.extend(range(shared, len(text.tokens)))
        self.ends.extend([None] * added)
        for prediction in new:
            self.predictions[prediction] = len(self.predictions)
        self.members.append((index, [self.predictions[prediction] for prediction in predicted]))
        self._path = path
        return True

    def close(self) -> None:
        """End every text that is still open."""
        self.ends = [len(self.tokens) if end is None else end for end in self.ends]


def grow_tries(texts: Sequence[Text], indices: Sequence[int], size: int) -> list[Trie]:
    """Put texts that begin alike into tries.

    Args:
      texts: all texts.
      indices: those to use.
      size: the most tokens of a trie; no text has more.

    Returns:
      The tries, which hold each of the texts once.
    """
    tries: list[Trie] = []
    for index in sorted(indices, key=lambda index: list(texts[index].tokens)):
        if tries and tries[-1].add(index, texts[index]):
            continue
        tries.append(Trie(size))
        tries[-1].add(index, texts[index])
    for trie in tries:
        trie.close()
    return tries


def fill_rows(tries: Sequence[Trie], size: int) -> list[list[Trie]]:
    """Put tries into rows, the largest first, each into the first row with room.

    First-fit decreasing (Johnson, 1973) needs at most 11/9 of the least number of rows.

    Args:
      tries: from `grow_tries`.
      size: the most tokens of a row.

    Returns:
      The tries of each row.
    """
    rows: list[list[Trie]] = []
    tokens: list[int] = []
    predictions: list[int] = []
    # Rows before this one are full.
    first = 0
    smallest = min((len(trie.tokens) for trie in tries), default=0)
    for trie in sorted(tries, key=lambda trie: -len(trie.tokens)):
        while first < len(rows) and tokens[first] + smallest > size:
            first += 1
        for row in range(first, len(rows)):
            fits = tokens[row] + len(trie.tokens) <= size
            if fits and predictions[row] + len(trie.predictions) <= size:
                break
        else:
            row = len(rows)
            rows.append([])
            tokens.append(0)
            predictions.append(0)
        rows[row].append(trie)
        tokens[row] += len(trie.tokens)
        predictions[row] += len(trie.predictions)
    return rows


def _common(left: Sequence[int], right: Sequence[int]) -> int:
    """The number of tokens with which both begin."""
    pairs = zip(left, right, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
