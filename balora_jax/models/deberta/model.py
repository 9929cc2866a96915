"""DeBERTa v2 and v3 (He et al., 2006.03654 and 2111.09543), with their classification head."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from balora_jax.models.base import Classifier, counted
from balora_jax.models.bert.encoder import EncoderLayer
from balora_jax.models.deberta.attention import DisentangledAttention, Positions, position_rows
from balora_jax.models.deberta.config import DebertaConfig
from balora_jax.models.deberta.convolution import Convolution, ConvolvedLayer
from balora_jax.models.layers.dense import ACTIVATIONS, Dense, embed
from balora_jax.models.layers.dropout import drop
from balora_jax.models.layers.norms import LayerNorm
from balora_jax.models.layers.options import Numerics
from balora_jax.models.layers.stack import stack


class Encoder(nn.Module):
    """The layers, with the table of relative positions that they share."""

    config: DebertaConfig
    remat: str

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array, numerics: Numerics) -> jax.Array:
        cfg = self.config
        positions = self._positions(x.shape[1], numerics) if cfg.relative else None
        pairs = mask[:, :, None] & mask[:, None, :]
        if not cfg.conv_width:
            layers = stack(EncoderLayer, cfg.layers, self.remat, (nn.broadcast, nn.broadcast))
            return layers(cfg, numerics, DisentangledAttention, name="layer")(x, pairs, positions)[
                0
            ]
        convolved = Convolution(cfg, numerics, name="conv")(x, mask)
        layers = stack(
            ConvolvedLayer, cfg.layers, self.remat, (0, nn.broadcast, nn.broadcast, nn.broadcast)
        )
        layers = layers(cfg, numerics, DisentangledAttention, name="layer")
        return layers(x, np.arange(cfg.layers) == 0, pairs, positions, convolved)[0]

    def _positions(self, length: int, numerics: Numerics) -> Positions:
        """The table's rows that a text of this length needs; the rest is not projected."""
        cfg = self.config
        table = embed(2 * cfg.span, cfg.hidden_size, numerics, "rel_embeddings").embedding
        rows = position_rows(cfg, length)
        table = table[rows[0] : rows[-1] + 1].astype(numerics.dtype)
        table = (
            LayerNorm(cfg.norm_eps, numerics, name="LayerNorm")(table)
            if cfg.norm_positions
            else table
        )
        return Positions(table, rows - rows[0])


class Embeddings(nn.Module):
    """norm(word + position + segment), each where configured; zero where the mask is False."""

    config: DebertaConfig
    numerics: Numerics

    @nn.compact
    def __call__(
        self, input_ids: jax.Array, mask: jax.Array, segments: jax.Array | None
    ) -> jax.Array:
        cfg, numerics, size = self.config, self.numerics, self.config.embedding_size
        x = embed(cfg.vocab_size, size, numerics, "word_embeddings")(input_ids)
        if cfg.absolute:
            table = embed(cfg.max_positions, size, numerics, "position_embeddings")
            x = x + table(jnp.arange(input_ids.shape[1])[None])
        if cfg.segments:
            table = embed(cfg.segments, size, numerics, "token_type_embeddings")
            x = x + table(input_ids * 0 if segments is None else segments)
        x = Dense(cfg.hidden_size, numerics, name="embed_proj")(x) if size != cfg.hidden_size else x
        x = LayerNorm(cfg.norm_eps, numerics, name="LayerNorm")(x) * mask[..., None]
        return drop(x.astype(numerics.dtype), cfg.hidden_dropout, numerics)


class Backbone(nn.Module):
    """Embeddings and layers."""

    config: DebertaConfig
    remat: str

    @nn.compact
    def __call__(
        self, input_ids: jax.Array, mask: jax.Array, segments: jax.Array | None, numerics: Numerics
    ):
        x = Embeddings(self.config, numerics, name="embeddings")(input_ids, mask, segments)
        return Encoder(self.config, self.remat, name="encoder")(x, mask, numerics)


class Pooler(nn.Module):
    """act(dense(drop(x)))."""

    config: DebertaConfig
    numerics: Numerics

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = drop(x, self.config.pooler_dropout, self.numerics)
        return ACTIVATIONS[self.config.pooler_activation](
            Dense(x.shape[-1], self.numerics, True, name="dense")(x)
        )


class DebertaClassifier(Classifier):
    """DeBERTa with a head of two layers on the first token."""

    def setup(self) -> None:
        self.deberta = Backbone(self.config, self.remat)

    def hidden_states(
        self, input_ids, attention_mask=None, token_type_ids=None, deterministic: bool = True
    ):
        """[batch, length, d], after the last layer."""
        mask = counted(input_ids, attention_mask)
        return self.deberta(input_ids, mask, token_type_ids, self._numerics(deterministic))

    def features(
        self, input_ids, attention_mask=None, token_type_ids=None, deterministic: bool = True
    ):
        """What the head reads: [batch, d], the first token's hidden state."""
        return self.hidden_states(input_ids, attention_mask, token_type_ids, deterministic)[:, 0]

    @nn.compact
    def classify(self, features: jax.Array, deterministic: bool = True) -> jax.Array:
        """[batch, d] -> [batch, labels] float32."""
        numerics = self._numerics(deterministic)
        pooled = Pooler(self.config, numerics, name="pooler")(features)
        pooled = drop(pooled, self.config.classifier_dropout, numerics)
        return Dense(self.labels, numerics, True, jnp.float32, name="classifier")(pooled)
