"""The check that weights are finite, by their bits and without a large temporary array."""

import numpy as np

# Elements at a time: their bits stay in the processor's cache.
CHUNK = 2**18


def all_finite(array: np.ndarray) -> bool:
    """Return True if no number is NaN or infinite.

    Such numbers, and no others, have all bits of the exponent set, as infinity has.

    Args:
      array: contiguous, of a floating-point type, also one of ml_dtypes.
    """
    unsigned = np.dtype(f"u{array.dtype.itemsize}")
    exponent = np.array(np.inf, array.dtype).view(unsigned)
    bits = array.reshape(-1).view(unsigned)
    for start in range(0, bits.size, CHUNK):
        if np.max(bits[start : start + CHUNK] & exponent) == exponent:
            return False
    return True
