"""A held-out part of the training rows."""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

from balora_jax.errors import BadInput

# Of the draw: the same rows are held out whatever the seed of the training.
SEED = 0


class Division(NamedTuple):
    """The rows of a set, in two parts.

    Attributes:
      train: int64 [training rows], their indices, ascending.
      held_out: int64 [held-out rows], likewise.
    """

    train: np.ndarray
    held_out: np.ndarray


def divide(source: str, classes: Sequence[Hashable], share: float) -> Division:
    """Draw a share of the rows of every class.

    Args:
      source: the name of the set, for the message.
      classes: the class of each row; all the same where there are none.
      share: above 0 and below 1. Of each class the nearest number of rows is drawn, but at least
        one stays for training.

    Returns:
      The parts.

    Raises:
      BadInput: the share is of less than one row.
    """
    members: dict[Hashable, list[int]] = {}
    for index, name in enumerate(classes):
        members.setdefault(name, []).append(index)
    generator = np.random.default_rng(SEED)
    drawn = []
    for rows in members.values():
        count = min(round(share * len(rows)), len(rows) - 1)
        drawn.append(generator.permutation(rows)[:count])
    held_out = np.sort(np.concatenate(drawn)).astype(np.int64)
    if not len(held_out):
        raise BadInput(
            f"data.eval_share {share:g} of the {len(classes):,} rows of {source} is not one row; "
            "accepted: a larger share, or data.eval"
        )
    return Division(np.setdiff1d(np.arange(len(classes)), held_out), held_out)
