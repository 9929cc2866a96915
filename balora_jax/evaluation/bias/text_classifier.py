"""A classifier as measures of bias see it: texts in, probabilities and embeddings out."""

import copy
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from balora_jax.data import Batch, Examples, bucket_lengths, token_ids
from balora_jax.evaluation.bias.embeddings import apply_to_tokens
from balora_jax.evaluation.glue import over_batches
from balora_jax.models.base import LastTokenClassifier
from balora_jax.training.processes import require_same

# Texts of a batch.
BATCH_TEXTS = 32


class TextClassifier:
    """A classifier with one set of weights, and its tokenizer.

    Attributes:
      name: the name in tables, such as adapter or base.
      model: a classifier of `balora_jax.models`.
      params: its parameters.
      lora: adapters with their scale folded in; None for none.
      tokenizer: a Hugging Face tokenizer.
      max_length: the most tokens that it reads of a text; the rest is cut.
    """

    def __init__(
        self,
        name: str,
        model: Any,
        params: dict,
        lora: dict | None,
        tokenizer: Any,
        *,
        max_length: int,
    ) -> None:
        """Join a model with its weights and its tokenizer.

        Args:
          name: the name in tables.
          model: a classifier of `balora_jax.models`.
          params: its parameters.
          lora: adapters with their scale folded in; None for none.
          tokenizer: a Hugging Face tokenizer.
          max_length: the most tokens of a text, as in training.
        """
        self.name = name
        self.model = model
        self.params = params
        self.lora = lora
        self.tokenizer = tokenizer
        self.max_length = max_length

    def with_lora(self, lora: dict | None) -> "TextClassifier":
        """Return the classifier with other adapters on the same weights and head.

        Args:
          lora: adapters with their scale folded in; None for none.
        """
        other = copy.copy(self)
        other.lora = lora
        return other

    def class_log_probs(self, texts: Sequence[str]) -> np.ndarray:
        """Compute the log-probabilities of the classes.

        Args:
          texts: the texts.

        Returns:
          float32 [texts, D].
        """
        return self._apply(_log_probs, texts)

    def embeddings(self, texts: Sequence[str]) -> np.ndarray:
        """Compute the embeddings of SEAT: hidden states after the last layer.

        Of an encoder the first token's, of a decoder the last token's, as May et al. (2019),
        arXiv 1903.10561, take them of BERT and of GPT.

        Args:
          texts: the texts.

        Returns:
          float32 [texts, d].
        """
        is_decoder = isinstance(self.model, LastTokenClassifier)
        return self._apply(_last_states if is_decoder else _first_states, texts)

    def read(self, texts: Examples, mesh: Mesh) -> tuple[np.ndarray, np.ndarray]:
        """Compute the inputs of the head and the log-probabilities of the classes.

        Args:
          texts: tokenized texts, or pairs of them.
          mesh: the devices of the model.

        Returns:
          Float32 [texts, d] and [texts, D].
        """
        variables = {"params": self.params, "lora": self.lora or {}}
        require_same({"texts": (texts.tokens.tobytes(), texts.starts.tobytes())})
        rows = mesh.size * max(1, BATCH_TEXTS // mesh.size)
        longest = int(texts.lengths.max())
        lengths = bucket_lengths(longest, longest)
        function = functools.partial(_features_and_log_probs, self.model, variables)
        features, log_probs = over_batches(texts, mesh, function, rows, lengths)
        return features, log_probs

    def _apply(self, function: Callable, texts: Sequence[str]) -> np.ndarray:
        options = {"truncation": True, "max_length": self.max_length}
        tokens = token_ids(self.tokenizer, list(texts), **options)["input_ids"]
        variables = {"params": self.params, "lora": self.lora or {}}
        return apply_to_tokens(
            functools.partial(function, self.model, variables),
            tokens,
            max_length=self.max_length,
            pad_id=self.tokenizer.pad_token_id or 0,
        )


@functools.partial(jax.jit, static_argnums=0)
def _features_and_log_probs(
    model: Any, variables: dict, batch: Batch
) -> tuple[jax.Array, jax.Array]:
    texts = (batch.input_ids, batch.attention_mask, batch.token_type_ids)
    features = model.apply(variables, *texts, method="features")
    logits = model.apply(variables, features, method="classify")
    return features.astype(jnp.float32), jax.nn.log_softmax(logits.astype(jnp.float32))


@functools.partial(jax.jit, static_argnums=0)
def _log_probs(model: Any, variables: dict, ids: jax.Array, mask: jax.Array) -> jax.Array:
    return jax.nn.log_softmax(model.apply(variables, ids, mask).astype(jnp.float32))


@functools.partial(jax.jit, static_argnums=0)
def _first_states(model: Any, variables: dict, ids: jax.Array, mask: jax.Array) -> jax.Array:
    return model.apply(variables, ids, mask, method="hidden_states")[:, 0].astype(jnp.float32)


@functools.partial(jax.jit, static_argnums=0)
def _last_states(model: Any, variables: dict, ids: jax.Array, mask: jax.Array) -> jax.Array:
    return model.apply(variables, ids, mask, method="features").astype(jnp.float32)
