"""One length for all batches of a run, and a few buckets."""

import numpy as np
import pytest

from balora_jax.data import Examples, bucket_lengths, padded_length


def _examples(count, longest=6):
    """Examples of 2 to `longest` tokens."""
    lengths = np.array([2 + index % (longest - 1) for index in range(count)])
    starts = np.concatenate([[0], np.cumsum(lengths)])
    return Examples(np.zeros(lengths.sum(), np.int32), starts, pad_id=0)


@pytest.mark.parametrize(
    ("longest", "max_length", "length"), [(6, 512, 32), (33, 512, 64), (33, 40, 40), (64, 64, 64)]
)
def test_one_length_for_all_sets(longest, max_length, length):
    assert padded_length(_examples(100, longest), _examples(3), max_length=max_length) == length


@pytest.mark.parametrize(
    ("longest", "max_length", "buckets"),
    [
        (5, 128, (16,)),
        (16, 128, (16,)),
        (17, 128, (16, 24)),
        (33, 128, (16, 24, 32, 48)),
        (100, 128, (16, 24, 32, 48, 64, 96, 128)),
        (100, 100, (16, 24, 32, 48, 64, 96, 100)),
        (20, 20, (16, 20)),
    ],
)
def test_bucket_lengths(longest, max_length, buckets):
    assert bucket_lengths(longest, max_length) == buckets
