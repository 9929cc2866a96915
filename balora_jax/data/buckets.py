"""Batches of a few lengths, so that short texts do not pay for long ones."""

import functools
from collections.abc import Iterator, Sequence

import grain
import numpy as np

from balora_jax.data.batches import PREFETCH, Batch
from balora_jax.data.pairs import LabeledTexts

# Batches among which examples are sorted by length: enough to make batches even, few enough to keep them random.
WINDOW = 50
SMALLEST = 16


def bucket_lengths(longest: int, max_length: int) -> tuple[int, ...]:
    """The lengths batches are padded to: 16, 24, 32, 48, 64, ... up to the longest example (at most max_length).

    Each is at most 1.5 times the one before, so a step is compiled for few shapes and little is padding.
    """
    lengths, step = [], SMALLEST
    while not lengths or lengths[-1] < longest:
        lengths += [step, step * 3 // 2]
        step *= 2
    enough = next(index for index, length in enumerate(lengths) if length >= longest)
    return tuple(dict.fromkeys(min(length, max_length) for length in lengths[: enough + 1]))


def collate_texts(texts: LabeledTexts, rows: Sequence[int], buckets: Sequence[int]) -> Batch:
    """Make one batch of the rows named.

    Args:
        texts: from encode.
        rows: which examples.
        buckets: lengths to choose from; the shortest that holds every row is taken.

    Returns:
        input_ids and segments int32 [rows, length], attention_mask bool [rows, length], labels [rows] (0 where there
        are none), mask bool [rows], True everywhere; teacher [rows, ...] where texts have it. Where they have answers:
        targets int32 [rows, longest answer], their tokens, and mask of the same shape, True on them.
    """
    rows = np.asarray(rows)
    longest = (texts.starts[rows + 1] - texts.starts[rows]).max()
    shape = (len(rows), next(length for length in buckets if length >= longest))
    input_ids, segments = np.full(shape, texts.pad_id, np.int32), np.zeros(shape, np.int32)
    attention_mask = np.zeros(shape, bool)
    for place, row in enumerate(rows):
        tokens, marks = texts[row]
        input_ids[place, : len(tokens)], segments[place, : len(tokens)] = tokens, marks
        attention_mask[place, : len(tokens)] = True
    labels = np.zeros(len(rows), np.int32) if texts.labels is None else texts.labels[rows]
    return {
        "input_ids": input_ids,
        "segments": segments,
        "attention_mask": attention_mask,
        "labels": labels,
        "mask": np.ones(len(rows), bool),
        **({} if texts.teacher is None else {"teacher": texts.teacher[rows]}),
        **({} if texts.answers is None else _answers(texts.answers[rows], texts.pad_id)),
    }


def _answers(tokens: np.ndarray, pad_id: int) -> Batch:
    return {"targets": np.where(tokens < 0, pad_id, tokens), "mask": tokens >= 0}


class BatchPlan:
    """Which examples each batch holds: `plan[i]` depends on nothing but i, so any position can be gone back to.

    The examples of all epochs are one endless row, each epoch shuffled by itself. Windows of it are sorted by length,
    cut into batches, and the batches shuffled.

    Args:
        lengths: tokens of each example.
        batch_size: examples a batch.
        batches: how many batches there are.
        seed: of every order.
    """

    def __init__(self, lengths: np.ndarray, batch_size: int, batches: int, seed: int) -> None:
        self._lengths, self._batch_size, self._batches, self._seed = (
            lengths,
            batch_size,
            batches,
            seed,
        )
        self._window = functools.lru_cache(maxsize=2)(self._make_window)
        self._epoch = functools.lru_cache(maxsize=2)(self._make_epoch)

    def __len__(self) -> int:
        return self._batches

    def __getitem__(self, index: int) -> np.ndarray:
        return self._window(index // WINDOW)[index % WINDOW]

    def _make_window(self, window: int) -> np.ndarray:
        size = WINDOW * self._batch_size
        examples = np.array([self._example(window * size + place) for place in range(size)])
        examples = examples[np.argsort(self._lengths[examples], kind="stable")]
        random = np.random.default_rng((self._seed % 2**32, 1, window))
        return random.permutation(examples.reshape(WINDOW, self._batch_size))

    def _example(self, place: int) -> int:
        epoch, position = divmod(place, len(self._lengths))
        return self._epoch(epoch)[position]

    def _make_epoch(self, epoch: int) -> np.ndarray:
        return np.random.default_rng((self._seed % 2**32, 0, epoch)).permutation(len(self._lengths))


def train_text_batches(
    texts: LabeledTexts, batch_size: int, buckets: Sequence[int], *, steps: int, seed: int
) -> grain.DatasetIterator:
    """Shuffled batches of like lengths for a run of that many steps; the position is get_state(), set_state().

    Args:
        texts: labeled examples.
        batch_size: examples a batch.
        buckets: from bucket_lengths.
        steps: batches to make.
        seed: of the order.
    """
    plan = grain.MapDataset.source(BatchPlan(texts.lengths, batch_size, steps, seed))
    batches = plan.map(lambda rows: collate_texts(texts, rows, buckets))
    return iter(
        batches.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=PREFETCH))
    )


def seen_rows(texts: LabeledTexts, batch_size: int, *, steps: int, seed: int) -> np.ndarray:
    """The examples that `train_text_batches` of the same arguments shows at all."""
    if steps // WINDOW * WINDOW * batch_size >= len(texts):
        return np.arange(len(texts))
    plan = BatchPlan(texts.lengths, batch_size, steps, seed)
    return np.unique(np.concatenate([plan[index] for index in range(steps)]))


def eval_text_batches(
    texts: LabeledTexts, batch_size: int, buckets: Sequence[int], rows: np.ndarray | None = None
) -> Iterator[tuple[np.ndarray, Batch]]:
    """Every example once, the shortest first; only those of `rows` where given.

    Yields:
        The examples' numbers [at most batch_size], and a batch of batch_size rows; the last batch is filled up with
        copies whose mask is False.
    """
    rows = np.arange(len(texts)) if rows is None else rows
    order = rows[np.argsort(texts.lengths[rows], kind="stable")]
    for start in range(0, len(order), batch_size):
        some = order[start : start + batch_size]
        batch = collate_texts(
            texts, np.resize(some, batch_size) if len(some) < batch_size else some, buckets
        )
        batch["mask"][len(some) :] = False
        yield some, batch
