"""Batches of examples: an order of the data, and arrays of the lengths allowed."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import grain
import numpy as np

from balora_jax.data.batch import DTYPES, Batch
from balora_jax.data.examples import Examples

# Batches made ahead of the training step, by one thread: a batch costs little beside a step.
PREFETCH = 8


def steps_for(epochs: float, examples: int, batch_size: int) -> int:
    """Compute the updates in which every example comes `epochs` times, rounded up."""
    return max(1, math.ceil(epochs * examples / batch_size))


def train_batches(
    order: grain.MapDataset, make_batch: Callable[[np.ndarray], Batch]
) -> grain.DatasetIterator:
    """Make the batches of a training run.

    Args:
      order: the examples of each batch, from `shuffled_order` or `windowed_order`.
      make_batch: makes a batch of them, such as `collate` or `PackedRows.collate`.

    Returns:
      An iterator over batches. `get_state()` gives its position as JSON values; after `set_state()`
      of them the same batches follow.
    """
    batches = order.map(make_batch)
    reading = grain.ReadOptions(num_threads=1, prefetch_buffer_size=PREFETCH)
    return iter(batches.to_iter_dataset(reading))


def eval_batches(
    examples: Examples, order: Iterable[tuple[np.ndarray, int]], lengths: Sequence[int]
) -> Iterator[tuple[np.ndarray, Batch]]:
    """Make the batches of one pass over a set.

    Args:
      examples: the set.
      order: the rows of each batch and how many of them count, from `given_order` or
        `length_order`.
      lengths: the lengths that a batch may have, in ascending order.

    Yields:
      The rows that count, int64 [at most the batch size], and the batch. The rest of the batch are
      copies with a mask of False: attention over no token is NaN in some implementations, and
      NaN * 0 is NaN.
    """
    for rows, count in order:
        batch = collate(examples, rows, lengths)
        batch.mask[count:] = False
        yield rows[:count], batch


def collate(examples: Examples, rows: Sequence[int], lengths: Sequence[int]) -> Batch:
    """Make one batch.

    Args:
      examples: the set.
      rows: the examples of the batch, by number.
      lengths: the lengths that the batch may have, in ascending order; it gets the first one that
        holds every row.

    Returns:
      The batch. Next-token prediction: `targets` are the next tokens (`pad_id` where there is
      none), and `mask` is True where a position predicts a token of the answer or its end.
      Otherwise `targets` are the answers, padded with `pad_id`, or the labels, 0 in a set without
      labels.

    Raises:
      ValueError: a row is longer than every length.
    """
    rows = np.asarray(rows)
    row_lengths = examples.lengths_of(rows)
    longest = row_lengths.max()
    length = min(length for length in lengths if length >= longest)
    input_ids = np.full((len(rows), length), examples.pad_id, DTYPES.input_ids)
    _fill(input_ids, examples.tokens, examples.starts, rows)
    token_type_ids = None
    if examples.token_type_ids is not None:
        token_type_ids = np.zeros((len(rows), length), DTYPES.token_type_ids)
        _fill(token_type_ids, examples.token_type_ids, examples.starts, rows)
    if examples.prompt_lengths is not None:
        targets = _next_tokens(input_ids, examples.pad_id)
        if examples.counted is None:
            mask = _predicts_answer(examples.prompt_lengths[rows], row_lengths, length)
        else:
            counted = np.zeros((len(rows), length), bool)
            _fill(counted, examples.counted, examples.starts, rows)
            mask = _next_tokens(counted, False)
    elif examples.answers is not None:
        answers = examples.answers[rows]
        mask = answers >= 0
        targets = np.where(mask, answers, examples.pad_id)
    else:
        targets = _labels(examples, rows)
        mask = np.ones(len(rows), DTYPES.mask)
    return Batch(
        input_ids=input_ids,
        attention_mask=np.arange(length) < row_lengths[:, None],
        targets=targets,
        mask=mask,
        token_type_ids=token_type_ids,
        teacher=None if examples.teacher is None else examples.teacher[rows],
    )


def _fill(array: np.ndarray, values: np.ndarray, starts: np.ndarray, rows: np.ndarray) -> None:
    """Write each row's values at the left of `array` [rows, length]."""
    for place, row in enumerate(rows):
        piece = values[starts[row] : starts[row + 1]]
        array[place, : len(piece)] = piece


def _next_tokens(input_ids: np.ndarray, pad_id: int | bool) -> np.ndarray:
    targets = np.full_like(input_ids, pad_id)
    targets[:, :-1] = input_ids[:, 1:]
    return targets


def _predicts_answer(prompts: np.ndarray, lengths: np.ndarray, length: int) -> np.ndarray:
    """Mark the positions whose next token belongs to the answer, bool [rows, length]."""
    position = np.arange(length)
    return (position >= prompts[:, None] - 1) & (position < lengths[:, None] - 1)


def _labels(examples: Examples, rows: np.ndarray) -> np.ndarray:
    if examples.labels is None:
        return np.zeros(len(rows), DTYPES.targets)
    return examples.labels[rows]
