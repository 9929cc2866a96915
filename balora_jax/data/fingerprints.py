"""The fingerprint of tokenized sets: equal for equal tokens and labels in the same order."""

import hashlib
from collections.abc import Sequence

import numpy as np

from balora_jax.data.examples import Examples

# The arrays of a set that its file and the tokenizer decide; the teacher's are the model's.
ARRAYS = ("tokens", "starts", "prompt_lengths", "counted", "token_type_ids", "labels", "answers")


def fingerprint(sets: Sequence[Examples]) -> str:
    """Hash the contents of data sets.

    Args:
      sets: tokenized sets; their order counts.

    Returns:
      The SHA-256 hash, in hexadecimal.
    """
    digest = hashlib.sha256()
    for examples in sets:
        digest.update(f"set, padded with {examples.pad_id}\n".encode())
        for name in ARRAYS:
            array = getattr(examples, name)
            if array is None:
                continue
            # The shape tells where the array's bytes end.
            digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
            digest.update(memoryview(np.ascontiguousarray(array)).cast("B") if array.size else b"")
    return digest.hexdigest()
