"""The log-likelihoods of whole sentences."""

from collections.abc import Sequence
from typing import Any

from balora_jax.errors import BadInput, shown
from balora_jax.generation.scoring import Score


def sentence_scores(model: Any, sentences: Sequence[str]) -> list[Score]:
    """Compute the log-likelihood of each sentence after one BOS.

    Args:
      model: a `LanguageModel`.
      sentences: the sentences, none of them empty.

    Returns:
      The score of each.

    Raises:
      BadInput: the model cannot read a sentence as a whole.
    """
    for sentence in sentences:
        tokens = len(model.encode_pair("", sentence)[1])
        if not 0 < tokens <= model.max_length:
            raise BadInput(
                f"the sentence {shown(sentence)} has {tokens} tokens; accepted: 1 to "
                f"{model.max_length}, which the model reads at once"
            )
    return model.log_likelihoods([("", sentence) for sentence in sentences])
