"""Packed batches: several examples in each row, so that little of a row is padding.

The examples of an update are those that it has without packing, so its loss is the same: rows are
made of one micro-batch at a time, and not of the stream of examples, as grain's packing makes them.
"""

import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import grain
import numpy as np

from balora_jax.data.batch import DTYPES, Batch
from balora_jax.data.examples import Examples
from balora_jax.data.lengths import LENGTH_MULTIPLE, most_sampled, sampled_lengths

# Rows are as short as they can be while this share of them is text.
ENOUGH = 0.9
# Shares of the updates that each of the lengths is long enough for.
LENGTH_SHARES = (0.3, 0.6, 0.9, 1.0)


class _Places(NamedTuple):
    """The places of texts in rows.

    Attributes:
      rows: int64 [texts], the row of each text.
      offsets: int64 [texts], its first place there.
      longest: the tokens of the fullest row.
    """

    rows: np.ndarray
    offsets: np.ndarray
    longest: int


@dataclass(frozen=True)
class PackedRows:
    """The size of packed batches.

    Attributes:
      parts: equal parts of a batch that share no row, such as its micro-batches.
      rows: rows of each part.
      lengths: the lengths that rows may have, in ascending order. A batch that needs more gets the
        longest and eighths of it.
      filled: the share of the rows that is text.
    """

    parts: int
    rows: int
    lengths: tuple[int, ...]
    filled: float

    def __str__(self) -> str:
        """Describe the rows in a few words."""
        count = self.parts * self.rows
        rows = "packed row" if count == 1 else "packed rows"
        lengths = ", ".join(f"{length:,}" for length in self.lengths)
        return f"{count:,} {rows} of {lengths} tokens, {self.filled:.0%} of them text"

    def collate(self, examples: Examples, numbers: Sequence[int]) -> Batch:
        """Make one batch of next-token prediction.

        Args:
          examples: the set.
          numbers: the examples of the batch; each part has as many, at least one for each row.

        Returns:
          The batch, [parts * rows, length]. `targets` and `mask` are those of `batches.collate` at
          each token, and the arrays tell the texts of a row apart.
        """
        of_parts = np.asarray(numbers).reshape(self.parts, -1)
        places = [_place(examples.lengths_of(part), self.rows) for part in of_parts]
        length = self._length(max(part.longest for part in places))
        batch = _empty(self.parts * self.rows, length, examples.pad_id)
        for index, (part, place) in enumerate(zip(of_parts, places, strict=True)):
            _write(batch, examples, part, index * self.rows + place.rows, place.offsets)
        return batch

    def used_lengths(self, sampled: np.ndarray) -> list[int]:
        """List the lengths that a run's batches have, the longest first.

        Args:
          sampled: from `sampled_lengths`.
        """
        parts = sampled.reshape(len(sampled), self.parts, -1)
        longest = (max(_place(part, self.rows).longest for part in update) for update in parts)
        return sorted({self._length(length) for length in longest}, reverse=True)

    def _length(self, needed: int) -> int:
        """The first length that holds so many tokens."""
        longest = self.lengths[-1]
        if needed > longest:
            # Few lengths, since each is a program.
            step = _rounded(longest // 8)
            return longest + step * math.ceil((needed - longest) / step)
        return next(length for length in self.lengths if length >= needed)


def plan_rows(
    examples: Examples, order: grain.MapDataset, *, parts: int, multiple: int
) -> PackedRows:
    """Choose the size of a run's packed batches, whatever its number of updates.

    Args:
      examples: the set.
      order: the examples of each batch, from `shuffled_order`.
      parts: as for `PackedRows`.
      multiple: the number of rows of a part is a multiple of this; a part has at least as many
        examples.

    Returns:
      The size with the shortest rows of which 90 % is text, or else that with the most text. It has
      at most four lengths, so that few programs are compiled.
    """
    sampled = sampled_lengths(examples, order, most_sampled(examples, order))
    lengths = sampled.reshape(len(sampled), parts, -1)
    best = None
    rows = lengths.shape[-1] // multiple * multiple
    if rows == 0:
        raise ValueError(f"{lengths.shape[-1]} examples of a part are fewer than {multiple} rows")
    while rows:
        candidate = _sized(lengths, rows)
        if best is None or candidate.filled > best.filled:
            best = candidate
        if best.filled >= ENOUGH:
            break
        rows = rows // 2 // multiple * multiple
    return best


def pack_all(examples: Examples, rows: int, length: int) -> Iterator[tuple[np.ndarray, Batch]]:
    """Make packed batches of one pass over a set of next-token prediction.

    Args:
      examples: the set.
      rows: rows of a batch.
      length: tokens of a row; that of the longest example if it is longer.

    Yields:
      The examples of a batch, in no order, and the batch [rows, length]. A row without an example
      reads one pad token that does not count.
    """
    length = max(length, _rounded(examples.longest))
    places = _fill(examples.lengths, length)
    batches = math.ceil((places.rows.max() + 1) / rows)
    for first in range(0, batches * rows, rows):
        numbers = np.flatnonzero((places.rows >= first) & (places.rows < first + rows))
        batch = _empty(rows, length, examples.pad_id)
        _write(batch, examples, numbers, places.rows[numbers] - first, places.offsets[numbers])
        yield numbers, batch


def _sized(lengths: np.ndarray, rows: int) -> PackedRows:
    """The packed batches with so many rows, given lengths [updates, parts, examples]."""
    longest = [max(_place(part, rows).longest for part in update) for update in lengths]
    needed = np.array([_rounded(length) for length in longest])
    allowed = np.unique(np.quantile(needed, LENGTH_SHARES, method="higher"))
    computed = allowed[np.searchsorted(allowed, needed)].mean() * lengths.shape[1] * rows
    filled = lengths.sum(axis=(1, 2)).mean() / computed
    return PackedRows(lengths.shape[1], rows, tuple(allowed.tolist()), float(filled))


def _place(lengths: np.ndarray, rows: int) -> _Places:
    """Put texts into rows, the longest first, each into the row with the fewest tokens.

    The fullest row has at most 4/3 of the tokens that it must have (Graham, 1969).
    """
    of_texts = np.zeros(len(lengths), np.int64)
    offsets = np.zeros(len(lengths), np.int64)
    used = [(0, row) for row in range(rows)]
    for text in np.argsort(-lengths, kind="stable"):
        tokens, row = used[0]
        of_texts[text] = row
        offsets[text] = tokens
        heapq.heapreplace(used, (tokens + int(lengths[text]), row))
    return _Places(of_texts, offsets, max(tokens for tokens, _ in used))


def _fill(lengths: np.ndarray, length: int) -> _Places:
    """Put texts into rows of a length, the longest first, each into the emptiest row or a new one.

    Worst-fit decreasing (Johnson, 1973) needs at most 5/4 of the least number of rows.
    """
    of_texts = np.zeros(len(lengths), np.int64)
    offsets = np.zeros(len(lengths), np.int64)
    used: list[tuple[int, int]] = []
    for text in np.argsort(-lengths, kind="stable"):
        tokens, row = used[0] if used else (length, -1)
        if tokens + lengths[text] <= length:
            heapq.heapreplace(used, (tokens + int(lengths[text]), row))
        else:
            tokens, row = 0, len(used)
            heapq.heappush(used, (int(lengths[text]), row))
        of_texts[text] = row
        offsets[text] = tokens
    return _Places(of_texts, offsets, max(tokens for tokens, _ in used))


def _rounded(length: int) -> int:
    return LENGTH_MULTIPLE * math.ceil(length / LENGTH_MULTIPLE)


def _empty(rows: int, length: int, pad_id: int) -> Batch:
    """A batch without texts; attention over no token is NaN in some implementations."""
    shape = rows, length
    attention_mask = np.zeros(shape, DTYPES.attention_mask)
    attention_mask[:, 0] = True
    return Batch(
        input_ids=np.full(shape, pad_id, DTYPES.input_ids),
        attention_mask=attention_mask,
        targets=np.full(shape, pad_id, DTYPES.targets),
        mask=np.zeros(shape, DTYPES.mask),
        positions=np.zeros(shape, DTYPES.positions),
        segment_ids=np.zeros(shape, DTYPES.segment_ids),
    )


def _write(
    batch: Batch, examples: Examples, numbers: np.ndarray, rows: np.ndarray, offsets: np.ndarray
) -> None:
    """Write examples into a batch."""
    for number, row, offset in zip(numbers, rows, offsets, strict=True):
        tokens = examples[number]
        here = slice(offset, offset + len(tokens))
        before_last = slice(offset, offset + len(tokens) - 1)
        batch.input_ids[row, here] = tokens
        batch.attention_mask[row, here] = True
        batch.positions[row, here] = np.arange(len(tokens))
        # Those of a row differ: it has one text at each place.
        batch.segment_ids[row, here] = offset + 1
        batch.targets[row, before_last] = tokens[1:]
        batch.mask[row, before_last] = examples.counted_of(number)[1:]
