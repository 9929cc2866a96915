"""A language model that keeps its scores on disk, for measures that ask it directly."""

from collections.abc import Callable, Iterator, Sequence

from balora_jax.evaluation.harness.responses import Responses, request_key
from balora_jax.evaluation.language_model import LanguageModel
from balora_jax.generation.scoring import Score


class RememberingModel(LanguageModel):
    """A language model whose scores are not computed again after a killed evaluation."""

    def __init__(
        self, inner: LanguageModel, responses: Responses, show: Callable[[int], None]
    ) -> None:
        """Join a model with its answers.

        Args:
          inner: the model.
          responses: its answers so far.
          show: called with the number of scores that have been found.
        """
        vars(self).update(vars(inner))
        self._responses = responses
        self._show = show

    def scores(
        self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]
    ) -> Iterator[tuple[int, Score]]:
        """Score pairs of tokens, those on disk first; see `LanguageModel.scores`."""
        keys = [request_key("score", [list(part) for part in pair]) for pair in pairs]
        missing = []
        for index, key in enumerate(keys):
            if key in self._responses:
                self._show(1)
                yield index, Score(*self._responses[key])
            else:
                missing.append(index)
        for number, score in super().scores([pairs[index] for index in missing]):
            index = missing[number]
            self._responses.add(keys[index], list(score))
            self._show(1)
            yield index, score
