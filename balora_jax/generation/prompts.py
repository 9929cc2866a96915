"""Prompts padded on the left to one of a few lengths, so that few programs are compiled."""

from collections.abc import Iterator, Sequence

import numpy as np

from balora_jax.errors import BadInput

SMALLEST_BUCKET = 16


def bucket_length(length: int) -> int:
    """Round a length up to a bucket: 16, 24, 32, 48, ..., powers of two and the halves between."""
    bucket = SMALLEST_BUCKET
    while bucket < length:
        half = bucket + bucket // 2
        bucket = half if half >= length else 2 * bucket
    return bucket


def batches_by_length(
    lengths: Sequence[int], max_length: int, batch_tokens: int
) -> Iterator[tuple[int, int, list[int]]]:
    """Divide texts into batches of similar lengths, the longest first.

    Args:
      lengths: the tokens of each text; of those above `max_length` that many are read.
      max_length: the most tokens of a text.
      batch_tokens: tokens of a batch, padding included.

    Yields:
      (the length of the rows, their number, the indices of the texts). Of each length the last
      batch has as many rows as the others, so that it needs no program of its own.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    while order:
        length = min(bucket_length(lengths[order[0]]), max_length)
        rows = max(1, batch_tokens // length)
        yield length, rows, order[:rows]
        order = order[rows:]


def pad_prompts(
    prompts: Sequence[Sequence[int]], max_positions: int
) -> tuple[np.ndarray, np.ndarray]:
    """Pad prompts on the left to the length of a bucket.

    Args:
      prompts: the tokens of each prompt.
      max_positions: the positions of the model.

    Returns:
      input_ids int32 and attention_mask bool, [batch, length].

    Raises:
      BadInput: a prompt is empty, or leaves no position for a new token.
    """
    for number, prompt in enumerate(prompts, 1):
        if not len(prompt):
            raise BadInput(f"prompt {number} is empty; accepted: at least one token")
        if len(prompt) >= max_positions:
            raise BadInput(
                f"prompt {number} has {len(prompt)} tokens; "
                f"accepted: fewer than the model's {max_positions} positions"
            )
    longest = max(len(prompt) for prompt in prompts)
    shape = (len(prompts), bucket_length(longest))
    input_ids = np.zeros(shape, np.int32)
    attention_mask = np.zeros(shape, bool)
    for row, prompt in enumerate(prompts):
        input_ids[row, -len(prompt) :] = prompt
        attention_mask[row, -len(prompt) :] = True
    return input_ids, attention_mask
