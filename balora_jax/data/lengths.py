"""The lengths that batches are padded to: one for all, or a few buckets."""

import math

from balora_jax.data.examples import Examples

# One length for all batches is a multiple of this: matrix tiles stay whole, and little is padding.
LENGTH_MULTIPLE = 32
SMALLEST_BUCKET = 16


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
