"""The best adapters of a smaller rank, by singular values."""

from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util

Tree = Any


class Compressed(NamedTuple):
    """Adapters of a smaller rank.

    Attributes:
      lora: the `lora` collection.
      error: the Frobenius norm of what was left out over that of the whole change.
      largest_error: the largest such share of a single kernel.
    """

    lora: Tree
    error: float
    largest_error: float


def compress(lora: Tree, rank: int) -> Compressed:
    """Approximate the change A B of every kernel by one of a smaller rank.

    No other change of that rank is nearer in the Frobenius norm (Eckart and Young, 1936). With
    A = Q R and B^T = P S, the singular values of A B are those of the small matrix R S^T, so that
    no matrix has the size of a kernel.

    Args:
      lora: {a, b} at each target, [in, r] and [r, out], with a leading axis where layers are
        stacked; the scale is folded into b.
      rank: the new rank, 1 to r.

    Returns:
      The adapters, float32 on the host, and how much was left out; computed in float64.
    """
    flat = traverse_util.flatten_dict(lora)
    compressed = {}
    squares = []
    for path in sorted({path[:-1] for path in flat}):
        a = np.asarray(flat[(*path, "a")], np.float64)
        b = np.asarray(flat[(*path, "b")], np.float64)
        q, r = np.linalg.qr(a)
        p, s = np.linalg.qr(np.swapaxes(b, -1, -2))
        left, values, right = np.linalg.svd(r @ np.swapaxes(s, -1, -2), full_matrices=False)
        roots = np.sqrt(values[..., :rank])
        kept_a = (q @ left[..., :rank]) * roots[..., None, :]
        kept_b = np.swapaxes(p @ np.swapaxes(right[..., :rank, :], -1, -2), -1, -2)
        compressed[(*path, "a")] = kept_a.astype(np.float32)
        compressed[(*path, "b")] = (roots[..., :, None] * kept_b).astype(np.float32)
        whole = np.sum(values**2, axis=-1).reshape(-1)
        lost = np.sum(values[..., rank:] ** 2, axis=-1).reshape(-1)
        squares.append(np.stack([lost, whole]))
    lost, whole = np.concatenate(squares, axis=1)
    shares = np.sqrt(np.divide(lost, whole, out=np.zeros_like(lost), where=whole > 0))
    error = np.sqrt(lost.sum() / whole.sum()) if whole.sum() > 0 else 0.0
    return Compressed(traverse_util.unflatten_dict(compressed), float(error), float(shares.max()))
