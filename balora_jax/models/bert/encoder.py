"""What BERT's family shares: a layer of self-attention, dense layer and their norms after each residual."""

from dataclasses import dataclass

import jax
from flax import linen as nn

from balora_jax.models.layers.attention import attend, merge_heads, split_heads
from balora_jax.models.layers.dense import ACTIVATIONS, Dense, embed, through
from balora_jax.models.layers.dropout import drop, dropping
from balora_jax.models.layers.norms import LayerNorm
from balora_jax.models.layers.options import Numerics


@dataclass(frozen=True)
class EncoderConfig:
    """The switches of an encoder; hashable, so that a model is a static argument of jit."""

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    max_positions: int
    # Kinds of segment; 0: none are told apart.
    segments: int
    activation: str
    norm_eps: float
    hidden_dropout: float
    attention_dropout: float
    classifier_dropout: float
    init_std: float
    pad_token_id: int | None

    @property
    def max_length(self) -> int:
        """Tokens a text may have; RoBERTa's first positions are taken by padding."""
        return self.max_positions - (self.pad_token_id + 1 if self.model_type == "roberta" else 0)


class SelfAttention(nn.Module):
    """Every token sees every counted one (Vaswani et al., 1706.03762)."""

    config: EncoderConfig
    numerics: Numerics

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array, positions: None) -> jax.Array:
        """[batch, length, d], mask [batch, 1, length] -> [batch, length, d], heads side by side."""
        cfg, numerics = self.config, self.numerics

        def project(name):
            return split_heads(Dense(cfg.hidden_size, numerics, True, name=name)(x), cfg.heads)

        query, key, value = project("query"), project("key"), project("value")
        scale = query.shape[-1] ** -0.5
        out = attend(
            query, key, value, mask, scale=scale, drop=dropping(cfg.attention_dropout, numerics)
        )
        return merge_heads(out)


class Output(nn.Module):
    """norm(residual + drop(dense(act(x)))); without an activation, of x itself."""

    config: EncoderConfig
    numerics: Numerics
    activation: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, residual: jax.Array) -> jax.Array:
        cfg = self.config
        dense = Dense(cfg.hidden_size, self.numerics, True, name="dense")
        x = through(ACTIVATIONS[self.activation], dense, x) if self.activation else dense(x)
        x = drop(x, cfg.hidden_dropout, self.numerics)
        return LayerNorm(cfg.norm_eps, self.numerics, name="LayerNorm")(residual + x)


class Intermediate(nn.Module):
    """dense(x); the output layer applies the activation."""

    config: EncoderConfig
    numerics: Numerics

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return Dense(self.config.intermediate_size, self.numerics, True, name="dense")(x)


class AttentionBlock(nn.Module):
    """Self-attention of the layer's kind, then its output layer."""

    config: EncoderConfig
    numerics: Numerics
    kind: type[nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array, positions) -> jax.Array:
        out = self.kind(self.config, self.numerics, name="self")(x, mask, positions)
        return Output(self.config, self.numerics, name="output")(out, x)


class EncoderLayer(nn.Module):
    """One layer; `positions` is whatever its self-attention takes besides the mask."""

    config: EncoderConfig
    numerics: Numerics
    kind: type[nn.Module] = SelfAttention

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array, positions) -> tuple[jax.Array, None]:
        x = AttentionBlock(self.config, self.numerics, self.kind, name="attention")(
            x, mask, positions
        )
        wide = Intermediate(self.config, self.numerics, name="intermediate")(x)
        return Output(self.config, self.numerics, self.config.activation, name="output")(
            wide, x
        ), None


class TokenEmbeddings(nn.Module):
    """norm(word + position + segment)."""

    config: EncoderConfig
    numerics: Numerics

    @nn.compact
    def __call__(
        self, input_ids: jax.Array, positions: jax.Array, segments: jax.Array | None
    ) -> jax.Array:
        """[batch, length] each (positions may be [1, length]) -> [batch, length, d]."""
        cfg, numerics = self.config, self.numerics
        x = embed(cfg.vocab_size, cfg.hidden_size, numerics, "word_embeddings")(input_ids)
        x = x + embed(cfg.max_positions, cfg.hidden_size, numerics, "position_embeddings")(
            positions
        )
        if cfg.segments:
            table = embed(cfg.segments, cfg.hidden_size, numerics, "token_type_embeddings")
            x = x + table(input_ids * 0 if segments is None else segments)
        return drop(
            LayerNorm(cfg.norm_eps, numerics, name="LayerNorm")(x), cfg.hidden_dropout, numerics
        )
