"""The order of the data: the examples that each batch holds, as row numbers."""

import functools
from collections.abc import Iterator

import grain
import numpy as np

from balora_jax.data.examples import Examples

# Batches whose examples are sorted by length together: enough for batches of like lengths, few
# enough for a random order.
WINDOW = 50


def shuffled_order(examples: Examples, batch_size: int, seed: int) -> grain.MapDataset:
    """Draw batches from an endless stream in which every epoch is shuffled anew.

    Batches run across the borders of epochs, so that every example comes equally often. Sources
    with shares of their own are shuffled apart, and follow each other evenly.

    Args:
      examples: the set.
      batch_size: examples a batch, which may be more than there are.
      seed: the seed of the order.

    Returns:
      The rows of each batch, int64 [batch_size].
    """
    # grain rounds the number of batches up by a float, which for batches of one is no length.
    return _stream(examples, seed).batch(batch_size, drop_remainder=True)


def _stream(examples: Examples, seed: int) -> grain.MapDataset:
    """The endless stream of rows: epochs of all, or each source's own, mixed by their shares."""
    seed %= 2**32
    if not examples.weighted:
        return grain.MapDataset.range(len(examples)).shuffle(seed=seed).repeat()
    ends = np.cumsum([part.size for part in examples.parts]).tolist()
    streams = []
    for number, (part, end) in enumerate(zip(examples.parts, ends, strict=True)):
        rows = grain.MapDataset.range(end - part.size, end)
        streams.append(rows.shuffle(seed=(seed + number) % 2**32).repeat())
    return grain.MapDataset.mix(streams, [part.share for part in examples.parts])


def windowed_order(
    examples: Examples, batch_size: int, *, steps: int, seed: int
) -> grain.MapDataset:
    """Shuffle the set into batches of like lengths.

    Args:
      examples: the set.
      batch_size: examples a batch.
      steps: batches to make.
      seed: the seed of the order.

    Returns:
      The rows of each batch, int64 [batch_size].
    """
    return grain.MapDataset.source(_windows(examples, batch_size, steps, seed))


def _windows(examples: Examples, batch_size: int, steps: int, seed: int) -> "SortedWindows":
    stream = _stream(examples, seed) if examples.weighted else None
    return SortedWindows(examples.lengths, batch_size, steps, seed, stream)


def shown_rows(examples: Examples, batch_size: int, *, steps: int, seed: int) -> np.ndarray:
    """List the examples that `windowed_order` of the same arguments has, in ascending order."""
    full_windows = steps // WINDOW
    if full_windows * WINDOW * batch_size >= len(examples) and not examples.weighted:
        return np.arange(len(examples))
    order = _windows(examples, batch_size, steps, seed)
    return np.unique(np.concatenate([order[step] for step in range(steps)]))


class SortedWindows:
    """Batches of like lengths in a random order; `order[i]` are the rows of batch i.

    All epochs, each shuffled by itself, form one endless stream of examples. A window of the stream
    holds `WINDOW` batches: its examples are sorted by length and cut into batches, and the batches
    are shuffled. `order[i]` depends on i alone, so that a resumed run may start at any batch.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        batch_size: int,
        batches: int,
        seed: int,
        stream: grain.MapDataset | None = None,
    ) -> None:
        """Describe the order.

        Args:
          lengths: tokens of each example, [examples].
          batch_size: examples a batch.
          batches: batches to make.
          seed: the seed of every shuffle.
          stream: the endless stream, where it is another than that of shuffled epochs.
        """
        self._lengths = lengths
        self._batch_size = batch_size
        self._batches = batches
        self._seed = seed % 2**32
        self._stream = stream
        # Neighboring batches share a window, and neighboring windows an epoch.
        self._window = functools.lru_cache(maxsize=2)(self._make_window)
        self._epoch = functools.lru_cache(maxsize=2)(self._make_epoch)

    def __len__(self) -> int:
        return self._batches

    def __getitem__(self, index: int) -> np.ndarray:
        """Return the rows of a batch, int64 [batch_size]."""
        window, place = divmod(index, WINDOW)
        return self._window(window)[place]

    def _make_window(self, window: int) -> np.ndarray:
        """Sort, cut and shuffle one window: int64 [WINDOW, batch_size]."""
        size = WINDOW * self._batch_size
        first = window * size
        rows = np.array([self._row(first + offset) for offset in range(size)])
        by_length = rows[np.argsort(self._lengths[rows], kind="stable")]
        random = np.random.default_rng((self._seed, 1, window))
        return random.permutation(by_length.reshape(WINDOW, self._batch_size))

    def _row(self, position: int) -> int:
        """Return the row at a position of the endless stream."""
        if self._stream is not None:
            return self._stream[position]
        epoch, offset = divmod(position, len(self._lengths))
        return self._epoch(epoch)[offset]

    def _make_epoch(self, epoch: int) -> np.ndarray:
        random = np.random.default_rng((self._seed, 0, epoch))
        return random.permutation(len(self._lengths))


def given_order(examples: Examples, batch_size: int) -> Iterator[tuple[np.ndarray, int]]:
    """Go through the set once, in its own order.

    Yields:
      The rows of a batch, int64 [batch_size], and how many of them count: the last batch is filled
      up with its last row.
    """
    for start in range(0, len(examples), batch_size):
        rows = np.arange(start, start + batch_size)
        yield np.minimum(rows, len(examples) - 1), min(batch_size, len(examples) - start)


def length_order(
    examples: Examples, batch_size: int, rows: np.ndarray | None = None
) -> Iterator[tuple[np.ndarray, int]]:
    """Go through the set once, the shortest examples first.

    Args:
      examples: the set.
      batch_size: examples a batch.
      rows: the examples to go through; None for all.

    Yields:
      The rows of a batch, int64 [batch_size], and how many of them count: the last batch is filled
      up with its own rows again.
    """
    if rows is None:
        rows = np.arange(len(examples))
    by_length = rows[np.argsort(examples.lengths[rows], kind="stable")]
    for start in range(0, len(by_length), batch_size):
        batch = by_length[start : start + batch_size]
        yield np.resize(batch, batch_size), len(batch)
