"""Which evaluation was the best, and whether to wait for a better one."""

from collections.abc import Mapping


class Best:
    """The best held-out evaluation so far.

    Attributes:
      step: where it was; None before the first.
      ended: whether `patience` evaluations have passed since.
    """

    def __init__(self, measure: str, *, higher: bool, patience: int | None = None) -> None:
        """Judges by `record[measure]`; the higher, or the lower, the better."""
        self._measure, self._sign, self._patience = measure, 1 if higher else -1, patience
        self._score, self._since = float("-inf"), 0
        self.step: int | None = None

    @property
    def ended(self) -> bool:
        return self._patience is not None and self._since >= self._patience

    def score(self, record: Mapping[str, float]) -> float | None:
        """How good an evaluation is, the higher the better; None for a record of something else."""
        return self._sign * record[self._measure] if self._measure in record else None

    def take(self, record: Mapping[str, float]) -> bool:
        """Whether this evaluation is the best so far; that of step 0 is no result of training and does not count."""
        score = self.score(record)
        if score is None or record["step"] == 0:
            return False
        better = score > self._score
        self._since = 0 if better else self._since + 1
        if better:
            self._score, self.step = score, int(record["step"])
        return better
