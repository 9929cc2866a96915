"""Examples of several sources in one set."""

from collections.abc import Sequence

import numpy as np

from balora_jax.data.examples import Examples, Part, starts_of


def join_examples(
    pieces: Sequence[Examples], names: Sequence[str], weights: Sequence[float] | None
) -> Examples:
    """Put the examples of next-token prediction of several sources into one set.

    Args:
      pieces: the examples of each source; a single one stays as it is.
      names: the sources.
      weights: how often an example of each source is drawn, beside the others; None where every
        example comes equally often.
    """
    if len(pieces) == 1:
        return pieces[0]
    tokens = [piece[index] for piece in pieces for index in range(len(piece))]
    counted = None
    if any(piece.counted is not None for piece in pieces):
        counted = np.concatenate([_counted(piece) for piece in pieces])
    used = [len(piece) + piece.dropped_empty + piece.dropped_long for piece in pieces]
    firsts = np.cumsum([0, *used])[:-1]
    return Examples(
        tokens=np.concatenate([piece.tokens for piece in pieces]),
        starts=starts_of(tokens),
        pad_id=pieces[0].pad_id,
        prompt_lengths=np.concatenate([piece.prompt_lengths for piece in pieces]),
        counted=counted,
        rows=np.concatenate(
            [first + piece.rows for first, piece in zip(firsts, pieces, strict=True)]
        ),
        doubled_start=sum(piece.doubled_start for piece in pieces),
        truncated=sum(piece.truncated for piece in pieces),
        dropped_empty=sum(piece.dropped_empty for piece in pieces),
        dropped_long=sum(piece.dropped_long for piece in pieces),
        parts=make_parts([len(piece) for piece in pieces], names, weights, pieces),
        weighted=weights is not None,
    )


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


def _counted(examples: Examples) -> np.ndarray:
    """The tokens that the loss counts, also where they are all of those after the prompt."""
    if examples.counted is not None:
        return examples.counted
    return np.concatenate([examples.counted_of(index) for index in range(len(examples))])
