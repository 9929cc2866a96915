"""Examples of several sources in one set."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from balora_jax.data.examples import Examples, Part
from balora_jax.data.growing import GrowingExamples


def join_examples(
    pieces: Sequence[Examples],
    names: Sequence[str],
    weights: Sequence[float] | None,
    folder: Path | None = None,
) -> Examples:
    """Put the examples of next-token prediction of several sources into one set.

    Args:
      pieces: the examples of each source, at least two.
      names: the sources.
      weights: how often an example of each source is drawn, beside the others; None where every
        example comes equally often.
      folder: as for `prepare`.
    """
    has_counted = any(piece.counted is not None for piece in pieces)
    growing = GrowingExamples(folder, pad_id=pieces[0].pad_id, has_counted=has_counted)
    first_row = 0
    for piece in pieces:
        growing.add_all(piece, first_row)
        first_row += len(piece) + piece.dropped_empty + piece.dropped_long
    parts = make_parts([len(piece) for piece in pieces], names, weights, pieces)
    return growing.finish(parts=parts, weighted=weights is not None)


def make_parts(
    sizes: Sequence[int],
    names: Sequence[str],
    weights: Sequence[float] | None,
    descriptions: Sequence[object],
) -> tuple[Part, ...]:
    """Describe the sources of a set.

    Args:
      sizes: the examples of each source.
      names: the sources.
      weights: as for `join_examples`.
      descriptions: of each source's examples.
    """
    portions = np.array(sizes if weights is None else weights, np.float64)
    shares = (portions / portions.sum()).tolist()
    return tuple(
        Part(name, size, share, str(description))
        for name, size, share, description in zip(names, sizes, shares, descriptions, strict=True)
    )
