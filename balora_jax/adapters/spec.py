"""The rank, scale and form that give an adapter tree its meaning."""

import dataclasses
import math
from typing import Literal


@dataclasses.dataclass(frozen=True)
class AdapterSpec:
    """The settings shared by all adapters of a model.

    Attributes:
      rank: columns of A, rows of B.
      alpha: numerator of the scale; None for the rank itself.
      rank_stabilized: divide alpha by sqrt(rank) instead of rank.
      form: delta, y = W x + s (A B - A0 B0) x on the unchanged W; or residual,
        y = W_res x + s A B x with W_res = W - s A0 B0.
    """

    rank: int
    alpha: float | None = None
    rank_stabilized: bool = False
    form: Literal["delta", "residual"] = "delta"

    @property
    def scale(self) -> float:
        """The factor s of A B.

        alpha / rank, or alpha / sqrt(rank) when rank-stabilized (Kalajdzievski, arXiv 2312.03732).
        """
        alpha = self.rank if self.alpha is None else self.alpha
        if self.rank_stabilized:
            return alpha / math.sqrt(self.rank)
        return alpha / self.rank
