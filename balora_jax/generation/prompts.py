"""Prompts side by side, padded on the left to a few lengths, so that new prompts seldom mean a new program."""

from collections.abc import Sequence

import numpy as np

from balora_jax.errors import BadInput

SMALLEST_BUCKET = 16


def bucket_length(length: int) -> int:
    """The padded length for a number of tokens: 16, 24, 32, 48, 64, 96, ...: powers of two and the halves between."""
    bucket = SMALLEST_BUCKET
    while bucket < length:
        half = bucket + bucket // 2
        bucket = half if half >= length else 2 * bucket
    return bucket


def pad_prompts(
    prompts: Sequence[Sequence[int]], max_positions: int
) -> tuple[np.ndarray, np.ndarray]:
    """Prompts side by side, padded on the left to a bucket's length.

    Args:
        prompts: the tokens of each.
        max_positions: the model's.

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
                f"prompt {number} has {len(prompt)} tokens; accepted: fewer than the model's {max_positions} positions"
            )
    length = bucket_length(max(map(len, prompts)))
    ids, mask = np.zeros((len(prompts), length), np.int32), np.zeros((len(prompts), length), bool)
    for row, prompt in enumerate(prompts):
        ids[row, length - len(prompt) :] = prompt
        mask[row, length - len(prompt) :] = True
    return ids, mask
