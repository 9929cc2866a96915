"""Batches of a few lengths, so that short texts do not pay for long ones."""

import functools
from collections.abc import Iterator, Sequence

import grain
import numpy as np

from balora_jax.data.batch import DTYPES, Batch
from balora_jax.data.batches import PREFETCH
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
        The batch; `targets` are the answers' tokens where texts have them, else their labels (0 where there are none).
    """
    rows = np.asarray(rows)
    longest = (texts.starts[rows + 1] - texts.starts[rows]).max()
    shape = (len(rows), next(length for length in buckets if length >= longest))
    input_ids = np.full(shape, texts.pad_id, DTYPES.input_ids)
    token_type_ids = np.zeros(shape, DTYPES.token_type_ids)
    attention_mask = np.zeros(shape, DTYPES.attention_mask)
    for place, row in enumerate(rows):
        tokens, marks = texts[row]
        input_ids[place, : len(tokens)] = tokens
        token_type_ids[place, : len(tokens)] = marks
        attention_mask[place, : len(tokens)] = True
    targets, mask = _targets(texts, rows)
    teacher = None if texts.teacher is None else texts.teacher[rows]
    return Batch(input_ids, attention_mask, targets, mask, token_type_ids, teacher)


def _targets(texts: LabeledTexts, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Targets and mask of a batch."""
    if texts.answers is not None:
        answers = texts.answers[rows]
        return np.where(answers < 0, texts.pad_id, answers), answers >= 0
    counted = np.ones(len(rows), DTYPES.mask)
    if texts.labels is None:
        return np.zeros(len(rows), DTYPES.targets), counted
    return texts.labels[rows], counted


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
        batch.mask[len(some) :] = False
        yield some, batch
