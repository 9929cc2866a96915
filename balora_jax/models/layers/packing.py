"""Several texts in one row, of which those that begin alike share the tokens of the beginning."""

import jax
from flax import struct


@struct.dataclass
class Packing:
    """The place of each token of a row in its text.

    The tokens of a row are in depth-first order of tries: a token comes after the one that it
    follows in its text, and between the two are only other continuations of that text. A text
    without a common beginning is a trie without branches.

    Attributes:
      positions: [batch, length] int32, the tokens before each one in its text.
      ends: [batch, length] int32, the index in the row after the last token that follows each one
        in its text, or in one of the texts that share it.
    """

    positions: jax.Array
    ends: jax.Array
