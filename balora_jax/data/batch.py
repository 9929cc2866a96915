"""The arrays of a batch, for every task."""

from typing import Any, NamedTuple

import numpy as np


class Batch(NamedTuple):
    """Examples side by side, or several in each row.

    To jax it is a pytree, in which None has no leaves.

    In training every array has one more axis in front: [micro-batches, examples, ...].

    Attributes:
      input_ids: tokens, int32 [examples, length].
      attention_mask: bool [examples, length], True where there is a token.
      targets: what the model is to predict. Causal language model: the next tokens, int32
        [examples, length]. Encoder-decoder: the answers, int32 [examples, answer length].
        Classifier: classes, int32 [examples], or scores, float32 [examples].
      mask: bool of the shape of `targets`, True where the loss counts.
      token_type_ids: int32 [examples, length], 1 on the second text of a pair where the tokenizer
        marks it; None for next-token prediction.
      teacher: float32 [examples, ...], the teacher's logits or features for a classifier; None
        where no term needs them, and where the teacher runs in the step.
      positions: int32 [rows, length], the tokens before each one in its text, where rows hold
        several texts of next-token prediction; None where a row is one.
      segment_ids: int32 [rows, length], likewise: equal for the tokens of one text of a row, and 0
        at padding.
    """

    input_ids: Any
    attention_mask: Any
    targets: Any
    mask: Any
    token_type_ids: Any = None
    teacher: Any = None
    positions: Any = None
    segment_ids: Any = None


# The dtype of each array; of scores among the targets, SCORE_DTYPE.
DTYPES = Batch(
    input_ids=np.int32,
    attention_mask=np.bool_,
    targets=np.int32,
    mask=np.bool_,
    token_type_ids=np.int32,
    teacher=np.float32,
    positions=np.int32,
    segment_ids=np.int32,
)
SCORE_DTYPE = np.float32
