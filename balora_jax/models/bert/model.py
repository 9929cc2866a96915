"""BERT (Devlin et al., arXiv 1810.04805) and RoBERTa (Liu et al., arXiv 1907.11692)."""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from balora_jax.models.base import Classifier, TanhHead, full_attention_mask
from balora_jax.models.bert.config import EncoderConfig
from balora_jax.models.bert.encoder import EncoderLayer, TokenEmbeddings
from balora_jax.models.bert.sharding import BERT_RULES
from balora_jax.models.layers.dense import Dense
from balora_jax.models.layers.dropout import dropout
from balora_jax.models.layers.mask import AttentionMask
from balora_jax.models.layers.options import LayerOptions
from balora_jax.models.layers.stack import stack


class Encoder(nn.Module):
    """The scanned layers."""

    config: EncoderConfig
    remat: str

    @nn.compact
    def __call__(self, x: jax.Array, attention_mask: jax.Array, options: LayerOptions) -> jax.Array:
        """Map [batch, length, d] to the same shape; attention_mask [batch, length] bool."""
        layers = stack(EncoderLayer, self.config.layers, self.remat, (nn.broadcast, nn.broadcast))
        mask = AttentionMask.padding(attention_mask)
        x, _ = layers(self.config, options, name="layer")(x, mask, None)
        return x


class Pooler(nn.Module):
    """tanh(dense(first token))."""

    config: EncoderConfig
    options: LayerOptions

    @nn.compact
    def __call__(self, hidden: jax.Array) -> jax.Array:
        """Map hidden states [batch, length, d] to [batch, d]."""
        dense = Dense(self.config.hidden_size, self.options, True, name="dense")
        return jnp.tanh(dense(hidden[:, 0]))


class Backbone(nn.Module):
    """Embeddings, layers and, in BERT, the pooler."""

    config: EncoderConfig
    remat: str

    @nn.compact
    def __call__(
        self,
        input_ids: jax.Array,
        attention_mask: jax.Array,
        token_type_ids: jax.Array | None,
        options: LayerOptions,
    ) -> tuple[jax.Array, jax.Array | None]:
        """Compute hidden states.

        Args:
          input_ids: [batch, length] int32.
          attention_mask: [batch, length] bool, True at tokens.
          token_type_ids: [batch, length] int32, or None.
          options: this call's layer options.

        Returns:
          [batch, length, d], and the pooled first token [batch, d] (BERT) or None (RoBERTa).
        """
        cfg = self.config
        embeddings = TokenEmbeddings(cfg, options, name="embeddings")
        x = embeddings(input_ids, self._positions(attention_mask), token_type_ids)
        x = Encoder(cfg, self.remat, name="encoder")(x, attention_mask, options)
        if cfg.model_type != "bert":
            return x, None
        return x, Pooler(cfg, options, name="pooler")(x)

    def _positions(self, attention_mask: jax.Array) -> jax.Array:
        """Number the positions: BERT by index, RoBERTa by token, after the padding's number."""
        if self.config.model_type == "bert":
            return jnp.arange(attention_mask.shape[1])[None]
        return jnp.cumsum(attention_mask, axis=-1) * attention_mask + self.config.pad_token_id


class BertClassifier(Classifier):
    """BERT with a linear head on the pooled first token."""

    sharding_rules: ClassVar = BERT_RULES

    def setup(self) -> None:
        self.bert = Backbone(self.config, self.remat)

    def _run(
        self,
        input_ids: jax.Array,
        attention_mask: jax.Array | None,
        token_type_ids: jax.Array | None,
        deterministic: bool,
    ) -> tuple[jax.Array, jax.Array]:
        attention_mask = full_attention_mask(input_ids, attention_mask)
        options = self._options(deterministic)
        return self.bert(input_ids, attention_mask, token_type_ids, options)

    def hidden_states(
        self,
        input_ids: jax.Array,
        attention_mask: jax.Array | None = None,
        token_type_ids: jax.Array | None = None,
        deterministic: bool = True,
    ) -> jax.Array:
        """Compute the hidden states [batch, length, d] after the last layer."""
        hidden, _ = self._run(input_ids, attention_mask, token_type_ids, deterministic)
        return hidden

    def features(
        self,
        input_ids: jax.Array,
        attention_mask: jax.Array | None = None,
        token_type_ids: jax.Array | None = None,
        deterministic: bool = True,
    ) -> jax.Array:
        """Compute the input of the head: the pooled first token [batch, d]."""
        _, pooled = self._run(input_ids, attention_mask, token_type_ids, deterministic)
        return pooled

    @nn.compact
    def classify(self, features: jax.Array, deterministic: bool = True) -> jax.Array:
        """Map features [batch, d] to logits [batch, labels] float32."""
        options = self._options(deterministic)
        features = dropout(features, self.config.classifier_dropout, options)
        return Dense(self.labels, options, True, jnp.float32, name="classifier")(features)


class RobertaClassifier(Classifier):
    """RoBERTa with a head of two layers on the first token."""

    sharding_rules: ClassVar = BERT_RULES

    def setup(self) -> None:
        self.roberta = Backbone(self.config, self.remat)

    def hidden_states(
        self,
        input_ids: jax.Array,
        attention_mask: jax.Array | None = None,
        token_type_ids: jax.Array | None = None,
        deterministic: bool = True,
    ) -> jax.Array:
        """Compute the hidden states [batch, length, d] after the last layer."""
        attention_mask = full_attention_mask(input_ids, attention_mask)
        options = self._options(deterministic)
        hidden, _ = self.roberta(input_ids, attention_mask, token_type_ids, options)
        return hidden

    def features(
        self,
        input_ids: jax.Array,
        attention_mask: jax.Array | None = None,
        token_type_ids: jax.Array | None = None,
        deterministic: bool = True,
    ) -> jax.Array:
        """Compute the input of the head: the first token's hidden state [batch, d]."""
        return self.hidden_states(input_ids, attention_mask, token_type_ids, deterministic)[:, 0]

    @nn.compact
    def classify(self, features: jax.Array, deterministic: bool = True) -> jax.Array:
        """Map features [batch, d] to logits [batch, labels] float32."""
        options = self._options(deterministic)
        head = TanhHead(self.labels, self.config.classifier_dropout, options, name="classifier")
        return head(features)
