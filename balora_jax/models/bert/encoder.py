"""The layers of BERT-like encoders: attention and MLP, each followed by a residual and a norm."""

from typing import Any

import jax
from flax import linen as nn

from balora_jax.models.bert.config import EncoderConfig
from balora_jax.models.layers.activations import ACTIVATIONS
from balora_jax.models.layers.attention import attend, merge_heads, split_heads
from balora_jax.models.layers.dense import Dense, activate_and_project, embed
from balora_jax.models.layers.dropout import dropout, dropout_function
from balora_jax.models.layers.mask import AttentionMask
from balora_jax.models.layers.norms import LayerNorm
from balora_jax.models.layers.options import LayerOptions


class SelfAttention(nn.Module):
    """Multi-head self-attention (Vaswani et al., arXiv 1706.03762)."""

    config: EncoderConfig
    options: LayerOptions

    @nn.compact
    def __call__(self, x: jax.Array, mask: AttentionMask, positions: None) -> jax.Array:
        """Attend from each position to those the mask allows.

        Args:
          x: [batch, length, d].
          mask: the keys each query may attend to.
          positions: None; absolute positions are in x.

        Returns:
          [batch, length, d], the heads side by side.
        """
        query = self._project(x, "query")
        key = self._project(x, "key")
        value = self._project(x, "value")
        scale = query.shape[-1] ** -0.5
        weights_dropout = dropout_function(self.config.attention_dropout, self.options)
        output = attend(query, key, value, mask, self.options, scale=scale, dropout=weights_dropout)
        return merge_heads(output)

    def _project(self, x: jax.Array, name: str) -> jax.Array:
        dense = Dense(self.config.hidden_size, self.options, True, name=name)
        return split_heads(dense(x), self.config.heads)


class Output(nn.Module):
    """norm(residual + dropout(dense(activation(x)))).

    Attributes:
      activation: a key of ACTIVATIONS; None for no activation.
    """

    config: EncoderConfig
    options: LayerOptions
    activation: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, residual: jax.Array) -> jax.Array:
        """Map x [batch, length, width] and a residual [batch, length, d] to the latter's shape."""
        cfg = self.config
        x = dropout(self._project(x), cfg.hidden_dropout, self.options)
        return LayerNorm(cfg.norm_eps, self.options, name="LayerNorm")(residual + x)

    def _project(self, x: jax.Array) -> jax.Array:
        dense = Dense(self.config.hidden_size, self.options, True, name="dense")
        if self.activation is None:
            return dense(x)
        return activate_and_project(ACTIVATIONS[self.activation], dense, x)


class Intermediate(nn.Module):
    """The MLP's first layer, without its activation, which `Output` applies."""

    config: EncoderConfig
    options: LayerOptions

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [batch, length, d] to [batch, length, width]."""
        return Dense(self.config.intermediate_size, self.options, True, name="dense")(x)


class AttentionBlock(nn.Module):
    """Self-attention and its output layer.

    Attributes:
      attention_class: the module class of the self-attention.
    """

    config: EncoderConfig
    options: LayerOptions
    attention_class: type[nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array, mask: AttentionMask, positions: Any) -> jax.Array:
        """Map [batch, length, d] to the same shape; arguments as for the attention."""
        attention = self.attention_class(self.config, self.options, name="self")
        attended = attention(x, mask, positions)
        return Output(self.config, self.options, name="output")(attended, x)


class EncoderLayer(nn.Module):
    """One layer of the encoder.

    Attributes:
      attention_class: the module class of the self-attention.
    """

    config: EncoderConfig
    options: LayerOptions
    attention_class: type[nn.Module] = SelfAttention

    @nn.compact
    def __call__(self, x: jax.Array, mask: AttentionMask, positions: Any) -> tuple[jax.Array, None]:
        """Apply one layer.

        Args:
          x: [batch, length, d].
          mask: the keys each query may attend to.
          positions: the attention's further input.

        Returns:
          [batch, length, d], and None, the layer's output in a scan.
        """
        cfg = self.config
        block = AttentionBlock(cfg, self.options, self.attention_class, name="attention")
        x = block(x, mask, positions)
        wide = Intermediate(cfg, self.options, name="intermediate")(x)
        output = Output(cfg, self.options, cfg.activation, name="output")
        return output(wide, x), None


class TokenEmbeddings(nn.Module):
    """dropout(norm(word + position + token type))."""

    config: EncoderConfig
    options: LayerOptions

    @nn.compact
    def __call__(
        self, input_ids: jax.Array, positions: jax.Array, token_type_ids: jax.Array | None
    ) -> jax.Array:
        """Embed tokens.

        Args:
          input_ids: [batch, length] int32.
          positions: [batch or 1, length] int32.
          token_type_ids: [batch, length] int32; None for all 0.

        Returns:
          [batch, length, d].
        """
        cfg = self.config
        words = embed(cfg.vocab_size, cfg.hidden_size, self.options, "word_embeddings")
        x = words(input_ids)
        places = embed(cfg.max_positions, cfg.hidden_size, self.options, "position_embeddings")
        x = x + places(positions)
        if cfg.token_types:
            types = embed(cfg.token_types, cfg.hidden_size, self.options, "token_type_embeddings")
            if token_type_ids is None:
                token_type_ids = input_ids * 0
            x = x + types(token_type_ids)
        x = LayerNorm(cfg.norm_eps, self.options, name="LayerNorm")(x)
        return dropout(x, cfg.hidden_dropout, self.options)
