"""A language model whose every number is given."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from balora_jax.generation.scoring import Score


class GivenModel:
    """A model with the interface of `LanguageModel` whose numbers are functions of the text."""

    def __init__(
        self,
        log_likelihood: Callable[[str], float],
        next_probs: Callable[[str], Sequence[float]] = lambda text: (0.5, 0.5),
        name: str = "given",
    ):
        self.name = name
        self.max_length = 1000
        self._log_likelihood = log_likelihood
        self._next_probs = next_probs

    def encode_pair(self, context: str, continuation: str) -> tuple[list[str], list[str]]:
        """A token is a word."""
        return ["<s>", *context.split()], continuation.split()

    def log_likelihoods(self, pairs: Sequence[tuple[str, str]]) -> list[Score]:
        return [
            Score(self._log_likelihood(context + text), False, len(text.split()))
            for context, text in pairs
        ]

    def next_log_probs(self, contexts: Sequence[str]) -> np.ndarray:
        rows = [[math.log(p) for p in self._next_probs(context)] for context in contexts]
        return np.array(rows, np.float32)
