"""T5 (Raffel et al., arXiv 1910.10683), from text to text and as a classifier."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from balora_jax.models.base import Classifier, Model, TanhHead, full_attention_mask, select_last
from balora_jax.models.head import Head
from balora_jax.models.layers.dense import Dense, embed
from balora_jax.models.layers.dropout import dropout
from balora_jax.models.layers.mask import AttentionMask
from balora_jax.models.layers.norms import RMSNorm
from balora_jax.models.layers.options import LayerOptions
from balora_jax.models.layers.stack import stack
from balora_jax.models.t5.config import T5Config
from balora_jax.models.t5.layers import Block, position_buckets
from balora_jax.models.t5.sharding import T5_RULES


class Stack(nn.Module):
    """Encoder or decoder: blocks that share one bias by relative position, and a final norm."""

    config: T5Config
    remat: str
    is_decoder: bool

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        attention_mask: jax.Array,
        options: LayerOptions,
        encoded: tuple[jax.Array, AttentionMask] | None = None,
    ) -> jax.Array:
        """Apply all blocks.

        Args:
          x: [batch, length, d].
          attention_mask: [batch, length] bool, True at tokens.
          options: this call's layer options.
          encoded: in the decoder, the encoder's output and the mask of attention to it.

        Returns:
          [batch, length, d].
        """
        cfg = self.config
        positions = np.arange(x.shape[1])[None]
        if self.is_decoder:
            layers = cfg.decoder_layers
            mask = AttentionMask.causal(positions, positions, attention_mask, is_ordered=True)
        else:
            layers = cfg.layers
            mask = AttentionMask.padding(attention_mask)

        bias = self._position_bias(positions, options)
        x = dropout(x, cfg.dropout, options)
        blocks = stack(Block, layers, self.remat, (nn.broadcast, nn.broadcast, nn.broadcast))
        x, _ = blocks(cfg, options, name="block")(x, mask, bias, encoded)
        x = RMSNorm(cfg.norm_eps, options, name="final_layer_norm")(x)
        return dropout(x, cfg.dropout, options)

    def _position_bias(self, positions: np.ndarray, options: LayerOptions) -> jax.Array:
        """Compute the bias [1, heads, length, length] float32 of positions [1, length]."""
        cfg = self.config
        distance = positions - positions.T
        rows = position_buckets(
            distance, cfg.buckets, cfg.max_distance, both_ways=not self.is_decoder
        )
        bias = embed(cfg.buckets, cfg.heads, options, "relative_attention_bias")(rows)
        return jnp.transpose(bias, (2, 0, 1))[None].astype(jnp.float32)


class Backbone(nn.Module):
    """Encoder and decoder, and the embedding they share."""

    config: T5Config
    options: LayerOptions
    remat: str

    def setup(self) -> None:
        cfg = self.config
        embedding_options = dataclasses.replace(self.options, init_std=1.0)
        self.shared = embed(cfg.vocab_size, cfg.hidden_size, embedding_options)
        self.encoder = Stack(cfg, self.remat, is_decoder=False)
        self.decoder = Stack(cfg, self.remat, is_decoder=True)

    def encode(
        self, input_ids: jax.Array, attention_mask: jax.Array, options: LayerOptions
    ) -> tuple[jax.Array, AttentionMask]:
        """Encode a text for the decoder.

        Args:
          input_ids: [batch, length] int32.
          attention_mask: [batch, length] bool, True at tokens.
          options: this call's layer options.

        Returns:
          The hidden states [batch, length, d], and the mask of attention to them.
        """
        hidden = self.encoder(self.shared(input_ids), attention_mask, options)
        return hidden, AttentionMask.padding(attention_mask)

    def decode(
        self,
        input_ids: jax.Array,
        attention_mask: jax.Array,
        encoded: tuple[jax.Array, AttentionMask],
        options: LayerOptions,
    ) -> jax.Array:
        """Compute the decoder's hidden states.

        Args:
          input_ids: [batch, answer length] int32.
          attention_mask: [batch, answer length] bool, True at tokens.
          encoded: as `encode` returns it.
          options: this call's layer options.

        Returns:
          [batch, answer length, d].
        """
        return self.decoder(self.shared(input_ids), attention_mask, options, encoded)


class T5(Model):
    """T5 from text to text.

    Call it as `apply({"params": base, "lora": adapters}, input_ids, attention_mask,
    decoder_input_ids)`.
    """

    embedding_path: ClassVar = ("shared", "embedding")
    sharding_rules: ClassVar = T5_RULES

    def setup(self) -> None:
        self.transformer = Backbone(self.config, self._options(deterministic=True), self.remat)
        nn.share_scope(self, self.transformer)

    def __call__(
        self,
        input_ids: jax.Array,
        attention_mask: jax.Array | None = None,
        decoder_input_ids: jax.Array | None = None,
        decoder_mask: jax.Array | None = None,
        deterministic: bool = True,
    ) -> jax.Array:
        """Compute the logits of the answer's next tokens.

        Args:
          input_ids: [batch, length] int32, the text.
          attention_mask: [batch, length], True at tokens, False at padding; None if there is no
            padding.
          decoder_input_ids: [batch, answer length] int32, the answer so far, after the start token
            (`shift_right`); the start token alone if None.
          decoder_mask: [batch, answer length], likewise for the answer.
          deterministic: False applies the dropout of the configuration and of the adapters, which
            needs the rng "dropout".

        Returns:
          [batch, answer length, V] float32.
        """
        hidden = self.hidden_states(
            input_ids, attention_mask, decoder_input_ids, decoder_mask, deterministic
        )
        return self._logits(hidden, deterministic)

    def hidden_states(
        self,
        input_ids: jax.Array,
        attention_mask: jax.Array | None = None,
        decoder_input_ids: jax.Array | None = None,
        decoder_mask: jax.Array | None = None,
        deterministic: bool = True,
    ) -> jax.Array:
        """Compute the input of the head, [batch, answer length, d]; arguments as for `__call__`."""
        if decoder_input_ids is None:
            shape = (len(input_ids), 1)
            decoder_input_ids = jnp.full(shape, self.config.start_token_id, jnp.int32)
        encoded = self.encode(input_ids, attention_mask, deterministic)
        return self._decode(decoder_input_ids, decoder_mask, encoded, deterministic)

    def encode(
        self,
        input_ids: jax.Array,
        attention_mask: jax.Array | None = None,
        deterministic: bool = True,
    ) -> tuple[jax.Array, AttentionMask]:
        """Encode a text for `answer`; arguments as for `__call__`.

        Returns:
          The encoder's hidden states [batch, length, d], and the mask of attention to them.
        """
        attention_mask = full_attention_mask(input_ids, attention_mask)
        return self.transformer.encode(input_ids, attention_mask, self._options(deterministic))

    def answer(
        self, decoder_input_ids: jax.Array, encoded: tuple[jax.Array, AttentionMask]
    ) -> jax.Array:
        """Compute the logits of an answer to an encoded text.

        Args:
          decoder_input_ids: [batch, answer length] int32, after the start token.
          encoded: as `encode` returns it.

        Returns:
          [batch, answer length, V] float32.
        """
        hidden = self._decode(decoder_input_ids, None, encoded, True)
        return self._logits(hidden, True)

    def _decode(
        self,
        decoder_input_ids: jax.Array,
        decoder_mask: jax.Array | None,
        encoded: tuple[jax.Array, AttentionMask],
        deterministic: bool,
    ) -> jax.Array:
        decoder_mask = full_attention_mask(decoder_input_ids, decoder_mask)
        options = self._options(deterministic)
        hidden = self.transformer.decode(decoder_input_ids, decoder_mask, encoded, options)
        if not self.config.scaled:
            return hidden
        return hidden * jnp.asarray(hidden.shape[-1] ** -0.5, hidden.dtype)

    @nn.compact
    def _logits(self, hidden: jax.Array, deterministic: bool) -> jax.Array:
        if self.config.tied:
            return Head(self.transformer.shared.embedding.T).logits(hidden)
        options = self._options(deterministic)
        lm_head = Dense(
            self.config.vocab_size, options, out_dtype=jnp.float32, gathers=False, name="lm_head"
        )
        return lm_head(hidden)


class T5Classifier(Classifier):
    """T5 with a head of two layers on the last token of the decoder, which repeats the text."""

    sharding_rules: ClassVar = T5_RULES

    def setup(self) -> None:
        self.transformer = Backbone(self.config, self._options(deterministic=True), self.remat)

    def hidden_states(
        self,
        input_ids: jax.Array,
        attention_mask: jax.Array | None = None,
        token_type_ids: jax.Array | None = None,
        deterministic: bool = True,
    ) -> jax.Array:
        """Compute the decoder's hidden states [batch, length, d]."""
        options = self._options(deterministic)
        attention_mask = full_attention_mask(input_ids, attention_mask)
        encoded = self.transformer.encode(input_ids, attention_mask, options)
        decoder_input_ids = shift_right(input_ids, self.config.start_token_id)
        decoder_mask = full_attention_mask(decoder_input_ids, None)
        return self.transformer.decode(decoder_input_ids, decoder_mask, encoded, options)

    def features(
        self,
        input_ids: jax.Array,
        attention_mask: jax.Array | None = None,
        token_type_ids: jax.Array | None = None,
        deterministic: bool = True,
    ) -> jax.Array:
        """Compute the input of the head: the hidden state [batch, d] of the last end-of-text token.

        Where a row has no such token, the last token's.
        """
        hidden = self.hidden_states(input_ids, attention_mask, token_type_ids, deterministic)
        attention_mask = full_attention_mask(input_ids, attention_mask)
        is_end = attention_mask & (input_ids == self.config.eos_token_id)
        has_end = is_end.any(axis=-1, keepdims=True)
        return select_last(hidden, jnp.where(has_end, is_end, attention_mask))

    @nn.compact
    def classify(self, features: jax.Array, deterministic: bool = True) -> jax.Array:
        """Map features [batch, d] to logits [batch, labels] float32."""
        options = self._options(deterministic)
        rate = self.config.classifier_dropout
        return TanhHead(self.labels, rate, options, name="classification_head")(features)


def shift_right(ids: jax.Array, start: int) -> jax.Array:
    """Prepend the start token and drop the last token.

    For start 0, [[5, 6, 7]] becomes [[0, 5, 6]].

    Args:
      ids: [batch, length] int32.
      start: the start token.

    Returns:
      [batch, length] int32.
    """
    return jnp.pad(ids[:, :-1], ((0, 0), (1, 0)), constant_values=start)
