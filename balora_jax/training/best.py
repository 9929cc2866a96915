"""The best held-out evaluation so far, and the decision to wait for a better one."""

from balora_jax.training.records import HeldOutRecord


class Best:
    """The best held-out evaluation so far.

    Attributes:
      step: the step of that evaluation; None before the first.
    """

    def __init__(self, measure: str, *, higher: bool, patience: int | None = None) -> None:
        """Judge by one measure.

        Args:
          measure: loss, or a metric's name.
          higher: whether higher is better.
          patience: evaluations to wait for a better one; None to wait for ever.
        """
        self._measure = measure
        self._sign = 1 if higher else -1
        self._patience = patience
        self._best_score = float("-inf")
        self._evaluations_since = 0
        self.step: int | None = None

    @property
    def ended(self) -> bool:
        """True once `patience` evaluations have passed since the best one."""
        return self._patience is not None and self._evaluations_since >= self._patience

    def score(self, record: HeldOutRecord) -> float:
        """The evaluation's measure, its sign turned so that higher is better."""
        return self._sign * record.measures[self._measure]

    def update(self, record: HeldOutRecord) -> bool:
        """Take in an evaluation.

        Args:
          record: the evaluation; that of step 0 is no result of training and does not count.

        Returns:
          Whether it is the best so far.
        """
        if record.step == 0:
            return False
        score = self.score(record)
        better = score > self._best_score
        self._evaluations_since = 0 if better else self._evaluations_since + 1
        if better:
            self._best_score = score
            self.step = record.step
        return better
