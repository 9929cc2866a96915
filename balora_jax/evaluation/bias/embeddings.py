"""The outputs of a model for texts, in batches of similar lengths, and embeddings of sentences."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from balora_jax.generation.prompts import batches_by_length
from balora_jax.hosts import on_host
from balora_jax.training.processes import require_same

# Tokens of a batch, padding included.
BATCH_TOKENS = 4096


class MeanEmbeddings:
    """The embeddings of a causal language model: the mean of the last layer's hidden states."""

    def __init__(self, model: Any) -> None:
        """Wrap a language model.

        Args:
          model: a `LanguageModel`.
        """
        self.name = model.name
        self._model = model

    def embeddings(self, texts: Sequence[str]) -> np.ndarray:
        """Compute the mean over a text's tokens, BOS not counted.

        Args:
          texts: the texts; of those longer than the model reads, the beginning.

        Returns:
          float32 [texts, d].
        """
        model = self._model
        pairs = [model.encode_pair("", text) for text in texts]
        joined = [[*prefix, *tokens] for prefix, tokens in pairs]
        variables = {"params": model.params, "lora": model.lora or {}}
        function = functools.partial(_mean_states, model.model, variables)
        return apply_to_tokens(
            function, joined, max_length=model.max_length, batch_tokens=model.batch_tokens
        )


def apply_to_tokens(
    function: Callable[[np.ndarray, np.ndarray], jax.Array],
    tokens: Sequence[Sequence[int]],
    *,
    max_length: int,
    batch_tokens: int = BATCH_TOKENS,
    pad_id: int = 0,
) -> np.ndarray:
    """Apply a function to texts in batches, the longest first.

    Args:
      function: (input_ids [rows, length] int32, attention_mask [rows, length] bool) -> [rows, ...].
      tokens: those of each text; after `max_length` they are cut.
      max_length: the most tokens of a text.
      batch_tokens: tokens of a batch, padding included.
      pad_id: the token that fills up rows.

    Returns:
      [texts, ...].
    """
    tokens = [list(text)[:max_length] for text in tokens]
    require_same({"texts": tokens})
    results: list[np.ndarray | None] = [None] * len(tokens)
    lengths = [len(text) for text in tokens]
    for length, rows, indices in batches_by_length(lengths, max_length, batch_tokens):
        ids = np.full((rows, length), pad_id, np.int32)
        mask = np.zeros((rows, length), bool)
        # Rows without a text attend to something, too.
        mask[:, 0] = True
        for row, index in enumerate(indices):
            ids[row, : len(tokens[index])] = tokens[index]
            mask[row, : len(tokens[index])] = True
        outputs = on_host(function(ids, mask))
        for row, index in enumerate(indices):
            results[index] = outputs[row]
    return np.stack(results)


@functools.partial(jax.jit, static_argnums=0)
def _mean_states(model: Any, variables: dict, ids: jax.Array, mask: jax.Array) -> jax.Array:
    hidden = model.apply(variables, ids, mask, method="hidden_states").astype(jnp.float32)
    counted = mask.at[:, 0].set(False)[..., None]
    return jnp.sum(hidden, axis=1, where=counted) / jnp.maximum(1, jnp.sum(counted, axis=1))
