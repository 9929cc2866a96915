"""The lengths that batches are padded to: one for all, or a few buckets."""

import math
from collections.abc import Sequence

import grain
import numpy as np

from balora_jax.data.examples import Examples

# One length for all batches is a multiple of this: matrix tiles stay whole, and little is padding.
LENGTH_MULTIPLE = 32
SMALLEST_BUCKET = 16
# What is looked at for the lengths of a run's batches: so many examples or epochs, whichever are
# fewer, and so many updates at the least.
SAMPLE = 2**13
SAMPLE_EPOCHS = 4
SAMPLE_UPDATES = 64


def padded_length(*sets: Examples, max_length: int) -> int:
    """Compute one length for all batches of a run: the longest example's, rounded up.

    Args:
      sets: every set of the run.
      max_length: the upper bound.
    """
    longest = max(examples.longest for examples in sets)
    return min(max_length, LENGTH_MULTIPLE * math.ceil(longest / LENGTH_MULTIPLE))


def bucket_lengths(longest: int, max_length: int) -> tuple[int, ...]:
    """List the lengths that batches may have: 16, 24, 32, 48, 64, ...

    Each is at most 1.5 times the one before: there are few shapes to compile a step for, and little
    padding.

    Args:
      longest: tokens of the longest example, which the last length holds.
      max_length: the upper bound of every length.
    """
    lengths = [SMALLEST_BUCKET]
    power = SMALLEST_BUCKET
    while lengths[-1] < longest:
        between = power * 3 // 2
        if lengths[-1] == power:
            lengths.append(between)
        else:
            power *= 2
            lengths.append(power)
    bounded = [min(length, max_length) for length in lengths]
    # The bound may have made two lengths equal.
    return tuple(dict.fromkeys(bounded))


def sampled_lengths(examples: Examples, order: grain.MapDataset, updates: int) -> np.ndarray:
    """Return the tokens of the examples of a run's updates, or of the first of many.

    Args:
      examples: the set.
      order: the examples of each batch, from `shuffled_order` or `windowed_order`.
      updates: batches of the run.

    Returns:
      int64 [updates of the sample, examples of a batch].
    """
    sample = min(updates, most_sampled(examples, order))
    return np.stack([examples.lengths_of(order[update]) for update in range(sample)])


def most_sampled(examples: Examples, order: grain.MapDataset) -> int:
    """Return the most updates of a sample.

    Args:
      examples: the set.
      order: the examples of each batch.
    """
    return max(min(SAMPLE, SAMPLE_EPOCHS * len(examples)) // len(order[0]), SAMPLE_UPDATES)


def used_lengths(sampled: np.ndarray, lengths: Sequence[int]) -> list[int]:
    """List the lengths that batches of a sample have, the longest first.

    Args:
      sampled: from `sampled_lengths`.
      lengths: those that a batch may have, in ascending order.
    """
    allowed = np.asarray(lengths)
    places = np.unique(np.searchsorted(allowed, sampled.max(axis=-1)))
    return allowed[places][::-1].tolist()
