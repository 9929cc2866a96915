"""DeBERTa v2 and v3 (He et al., arXiv 2006.03654 and 2111.09543) as classifiers."""

from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from balora_jax.models.base import Classifier, full_attention_mask
from balora_jax.models.bert.encoder import EncoderLayer
from balora_jax.models.deberta.attention import (
    DisentangledAttention,
    RelativePositions,
    position_rows,
)
from balora_jax.models.deberta.config import DebertaConfig
from balora_jax.models.deberta.convolution import Convolution, ConvolvedLayer
from balora_jax.models.deberta.sharding import DEBERTA_RULES
from balora_jax.models.layers.activations import ACTIVATIONS
from balora_jax.models.layers.dense import Dense, embed
from balora_jax.models.layers.dropout import dropout
from balora_jax.models.layers.mask import AttentionMask
from balora_jax.models.layers.norms import LayerNorm
from balora_jax.models.layers.options import LayerOptions
from balora_jax.models.layers.stack import stack


class Encoder(nn.Module):
    """The scanned layers, and the table of relative positions they share."""

    config: DebertaConfig
    remat: str

    @nn.compact
    def __call__(self, x: jax.Array, attention_mask: jax.Array, options: LayerOptions) -> jax.Array:
        """Map [batch, length, d] to the same shape; attention_mask [batch, length] bool."""
        cfg = self.config
        positions = self._positions(x.shape[1], options) if cfg.relative else None
        mask = AttentionMask.padding(attention_mask, query_mask=attention_mask)
        if cfg.conv_width:
            return self._convolved_layers(x, attention_mask, mask, positions, options)
        layers = stack(EncoderLayer, cfg.layers, self.remat, (nn.broadcast, nn.broadcast))
        x, _ = layers(cfg, options, DisentangledAttention, name="layer")(x, mask, positions)
        return x

    def _convolved_layers(
        self,
        x: jax.Array,
        attention_mask: jax.Array,
        mask: AttentionMask,
        positions: RelativePositions | None,
        options: LayerOptions,
    ) -> jax.Array:
        cfg = self.config
        convolution = Convolution(cfg, options, name="conv")(x, attention_mask)
        in_axes = (0, nn.broadcast, nn.broadcast, nn.broadcast)
        layers = stack(ConvolvedLayer, cfg.layers, self.remat, in_axes)
        is_first = np.arange(cfg.layers) == 0
        x, _ = layers(cfg, options, DisentangledAttention, name="layer")(
            x, is_first, mask, positions, convolution
        )
        return x

    def _positions(self, length: int, options: LayerOptions) -> RelativePositions:
        """Select the rows of the table that a text of this length needs; no other is projected."""
        cfg = self.config
        table = embed(2 * cfg.span, cfg.hidden_size, options, "rel_embeddings").embedding
        rows = position_rows(cfg, length)
        first_row = rows[0]
        last_row = rows[-1]
        table = table[first_row : last_row + 1].astype(options.dtype)
        if cfg.norm_positions:
            table = LayerNorm(cfg.norm_eps, options, name="LayerNorm")(table)
        return RelativePositions(table, rows - first_row)


class Embeddings(nn.Module):
    """dropout(norm(word + position + token type)), zero at padding; the last two if configured."""

    config: DebertaConfig
    options: LayerOptions

    @nn.compact
    def __call__(
        self, input_ids: jax.Array, attention_mask: jax.Array, token_type_ids: jax.Array | None
    ) -> jax.Array:
        """Embed tokens.

        Args:
          input_ids: [batch, length] int32.
          attention_mask: [batch, length] bool, True at tokens.
          token_type_ids: [batch, length] int32; None for all 0.

        Returns:
          [batch, length, d].
        """
        cfg = self.config
        size = cfg.embedding_size
        x = embed(cfg.vocab_size, size, self.options, "word_embeddings")(input_ids)
        if cfg.absolute:
            places = embed(cfg.max_positions, size, self.options, "position_embeddings")
            x = x + places(jnp.arange(input_ids.shape[1])[None])
        if cfg.token_types:
            types = embed(cfg.token_types, size, self.options, "token_type_embeddings")
            if token_type_ids is None:
                token_type_ids = input_ids * 0
            x = x + types(token_type_ids)
        if size != cfg.hidden_size:
            x = Dense(cfg.hidden_size, self.options, name="embed_proj")(x)
        x = LayerNorm(cfg.norm_eps, self.options, name="LayerNorm")(x)
        x = x * attention_mask[..., None]
        return dropout(x.astype(self.options.dtype), cfg.hidden_dropout, self.options)


class Backbone(nn.Module):
    """Embeddings and layers."""

    config: DebertaConfig
    remat: str

    @nn.compact
    def __call__(
        self,
        input_ids: jax.Array,
        attention_mask: jax.Array,
        token_type_ids: jax.Array | None,
        options: LayerOptions,
    ) -> jax.Array:
        """Compute hidden states [batch, length, d]; arguments as for `Embeddings`."""
        embeddings = Embeddings(self.config, options, name="embeddings")
        x = embeddings(input_ids, attention_mask, token_type_ids)
        return Encoder(self.config, self.remat, name="encoder")(x, attention_mask, options)


class Pooler(nn.Module):
    """activation(dense(dropout(x)))."""

    config: DebertaConfig
    options: LayerOptions

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [batch, d] to the same shape."""
        x = dropout(x, self.config.pooler_dropout, self.options)
        x = Dense(x.shape[-1], self.options, True, name="dense")(x)
        return ACTIVATIONS[self.config.pooler_activation](x)


class DebertaClassifier(Classifier):
    """DeBERTa with a head of two layers on the first token."""

    sharding_rules: ClassVar = DEBERTA_RULES

    def setup(self) -> None:
        self.deberta = Backbone(self.config, self.remat)

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
        return self.deberta(input_ids, attention_mask, token_type_ids, options)

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
        pooled = Pooler(self.config, options, name="pooler")(features)
        pooled = dropout(pooled, self.config.classifier_dropout, options)
        return Dense(self.labels, options, True, jnp.float32, name="classifier")(pooled)
