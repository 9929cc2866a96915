"""Several texts in one row: apart, or with the tokens of a beginning that they share."""

import jax
from flax import struct


@struct.dataclass
class Packing:
    """The place of each token of a row in its text.

    Either each text has its own tokens, one text after another, and `segment_ids` tells them apart.
    Or the tokens of a row are in depth-first order of tries, with their `ends`: a token comes after
    the one that it follows in its text, and between the two are only other continuations of that
    text.

    Attributes:
      positions: [batch, length] int32, the tokens before each one in its text.
      segment_ids: [batch, length] int32, equal for the tokens of one text and no other of the row;
        None for tries.
      ends: [batch, length] int32, the index in the row after the last token that follows each one
        in its text, or in one of the texts that share it; None for texts of their own.
    """

    positions: jax.Array
    segment_ids: jax.Array | None = None
    ends: jax.Array | None = None
