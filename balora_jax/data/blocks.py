"""Long arrays read piece by piece: those in files never come into memory as a whole."""

from collections.abc import Iterator

import numpy as np

# Elements of a block.
BLOCK = 2**20


def blocks(array: np.ndarray) -> Iterator[np.ndarray]:
    """Iterate over the pieces of an array, end to end.

    Args:
      array: [elements, ...]. A whole file, memory-mapped, is mapped again for each piece, and its
        memory is given back after it.
    """
    for start in range(0, len(array), BLOCK):
        stop = min(start + BLOCK, len(array))
        if isinstance(array, np.memmap) and array.ndim == 1 and array.offset == 0:
            offset = start * array.itemsize
            shape = (stop - start,)
            yield np.memmap(array.filename, array.dtype, "r", offset, shape)
        else:
            yield array[start:stop]
