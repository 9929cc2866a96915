"""Batches of one shape: an endless shuffled stream for training, every example once for evaluation."""

import math
from collections.abc import Iterator, Sequence

import grain
import numpy as np

from balora_jax.data.batch import DTYPES, Batch
from balora_jax.data.examples import Examples
from balora_jax.errors import BadInput

# Batch lengths are multiples of this: matrix tiles stay whole, and little is padding.
LENGTH_MULTIPLE = 32
# Batches made ahead of the training step, by one thread: batches are cheap beside a step.
PREFETCH = 8


def padded_length(*sets: Examples, max_length: int) -> int:
    """The one length of a run's batches: the longest example of all sets, rounded up, at most max_length."""
    longest = max(examples.longest for examples in sets)
    return min(max_length, LENGTH_MULTIPLE * math.ceil(longest / LENGTH_MULTIPLE))


def steps_for(epochs: float, examples: int, batch_size: int) -> int:
    """Updates after which every example has been seen `epochs` times, the last update rounded up."""
    return max(1, math.ceil(epochs * examples / batch_size))


def require_vocabulary(vocab_size: int, *sets: Examples) -> None:
    """Raise BadInput if a token is beyond the model's embeddings (the tokenizer is another model's)."""
    largest = max(examples.largest_token for examples in sets)
    if largest >= vocab_size:
        raise BadInput(
            f"the tokenizer makes token {largest} but the model has {vocab_size} embeddings; "
            "accepted: the model's own tokenizer"
        )


def collate(examples: Sequence[tuple[np.ndarray, int]], *, length: int, pad_id: int) -> Batch:
    """Make one batch.

    Args:
        examples: tokens int32 [at most length] and prompt length of each.
        length: tokens a row.
        pad_id: what fills the rest of a row.

    Returns:
        Arrays [examples, length]: `targets` holds each position's next token (pad_id where there is none); `mask` is
        True where a position predicts a token of the answer or its end.
    """
    shape = (len(examples), length)
    input_ids = np.full(shape, pad_id, DTYPES.input_ids)
    for row, (tokens, _) in enumerate(examples):
        input_ids[row, : len(tokens)] = tokens
    targets = np.full(shape, pad_id, DTYPES.targets)
    targets[:, :-1] = input_ids[:, 1:]
    lengths = np.array([[len(tokens)] for tokens, _ in examples])
    prompts = np.array([[prompt] for _, prompt in examples])
    position = np.arange(length)
    counted = (position >= prompts - 1) & (position < lengths - 1)
    return Batch(input_ids, attention_mask=position < lengths, targets=targets, mask=counted)


def train_batches(
    examples: Examples, batch_size: int, length: int, seed: int
) -> grain.DatasetIterator:
    """An endless stream of shuffled batches that can be stopped and gone on with.

    Every epoch has its own order, and batches run across the borders of epochs, so every example is seen equally
    often. `get_state()` gives the position as JSON-able values; `set_state()` makes exactly the same batches follow.

    Args:
        examples: from prepare.
        batch_size: examples a batch, also when there are fewer examples than that.
        length: tokens a row, from padded_length.
        seed: of the order.
    """
    stream = grain.MapDataset.source(examples).shuffle(seed=seed % 2**32).repeat()
    batches = stream.batch(
        batch_size, batch_fn=lambda rows: collate(rows, length=length, pad_id=examples.pad_id)
    )
    return iter(
        batches.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=PREFETCH))
    )


def eval_batches(examples: Examples, batch_size: int, length: int) -> Iterator[Batch]:
    """Every example once, in order. The last batch is filled up with copies that do not count (mask all False)."""
    for start in range(0, len(examples), batch_size):
        rows = [examples[index] for index in range(start, min(start + batch_size, len(examples)))]
        # Copies, not empty rows: attention over nothing is NaN in some implementations, and NaN * 0 is NaN.
        batch = collate(
            rows + rows[-1:] * (batch_size - len(rows)), length=length, pad_id=examples.pad_id
        )
        batch.mask[len(rows) :] = False
        yield batch
