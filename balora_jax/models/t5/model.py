"""T5 (Raffel et al., 1910.10683), from text to text and as a classifier."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from balora_jax.models.base import Classifier, Model, TanhHead, at_last, counted
from balora_jax.models.head import Head
from balora_jax.models.layers.dense import Dense, embed
from balora_jax.models.layers.dropout import drop
from balora_jax.models.layers.norms import RMSNorm
from balora_jax.models.layers.options import Numerics
from balora_jax.models.layers.stack import stack
from balora_jax.models.t5.layers import Block, T5Config, position_buckets


class Stack(nn.Module):
    """Encoder or decoder: blocks that share one bias by distance, and a final norm."""

    config: T5Config
    remat: str
    is_decoder: bool

    @nn.compact
    def __call__(
        self, x: jax.Array, mask: jax.Array, numerics: Numerics, encoded: tuple | None = None
    ) -> jax.Array:
        """Args: x [batch, length, d]; mask [batch, length]; encoded: the encoder's output and its mask."""
        cfg, length = self.config, x.shape[1]
        distance = np.arange(length)[None, :] - np.arange(length)[:, None]
        rows = position_buckets(
            distance, cfg.buckets, cfg.max_distance, both_ways=not self.is_decoder
        )
        bias = embed(cfg.buckets, cfg.heads, numerics, "relative_attention_bias")(rows)
        bias = jnp.transpose(bias, (2, 0, 1))[None].astype(jnp.float32)
        mask = mask[:, None, :] & (distance <= 0) if self.is_decoder else mask[:, None, :]
        layers = cfg.decoder_layers if self.is_decoder else cfg.layers
        blocks = stack(Block, layers, self.remat, (nn.broadcast,) * 3)(cfg, numerics, name="block")
        x, _ = blocks(drop(x, cfg.dropout, numerics), mask, bias, encoded)
        return drop(
            RMSNorm(cfg.norm_eps, numerics, name="final_layer_norm")(x), cfg.dropout, numerics
        )


class Backbone(nn.Module):
    """The embedding that both share, encoder and decoder."""

    config: T5Config
    numerics: Numerics
    remat: str

    def setup(self) -> None:
        cfg = self.config
        self.shared = embed(
            cfg.vocab_size, cfg.hidden_size, dataclasses.replace(self.numerics, init_std=1.0)
        )
        self.encoder = Stack(cfg, self.remat, False)
        self.decoder = Stack(cfg, self.remat, True)

    def encode(
        self, input_ids: jax.Array, mask: jax.Array, numerics: Numerics
    ) -> tuple[jax.Array, jax.Array]:
        """What the decoder looks at: the encoder's hidden states [batch, length, d] and its mask [batch, 1, length]."""
        return self.encoder(self.shared(input_ids), mask, numerics), mask[:, None, :]

    def decode(
        self, input_ids: jax.Array, mask: jax.Array, encoded: tuple, numerics: Numerics
    ) -> jax.Array:
        """The decoder's hidden states, [batch, answer length, d]."""
        return self.decoder(self.shared(input_ids), mask, numerics, encoded)


class T5(Model):
    """T5 from text to text; `apply({"params": base, "lora": adapters}, input_ids, mask, decoder_input_ids)`."""

    embedding_path: ClassVar = ("shared", "embedding")

    def setup(self) -> None:
        self.transformer = Backbone(self.config, self._numerics(True), self.remat)
        nn.share_scope(self, self.transformer)

    def __call__(
        self,
        input_ids,
        attention_mask=None,
        decoder_input_ids=None,
        decoder_mask=None,
        deterministic: bool = True,
    ) -> jax.Array:
        """Logits of the next token of the answer.

        Args:
            input_ids: [batch, length] int32, the text that is read.
            attention_mask: [batch, length], True where a token counts; all when not given.
            decoder_input_ids: [batch, answer length] int32, the answer so far, led by the start token
                (`shift_right`); the start token alone when not given.
            decoder_mask: likewise for the answer.
            deterministic: False drops, at the configuration's and the adapters' rates; needs the rng "dropout" then.

        Returns:
            [batch, answer length, V] float32.
        """
        hidden = self.hidden_states(
            input_ids, attention_mask, decoder_input_ids, decoder_mask, deterministic
        )
        return self._logits(hidden, deterministic)

    def hidden_states(
        self,
        input_ids,
        attention_mask=None,
        decoder_input_ids=None,
        decoder_mask=None,
        deterministic: bool = True,
    ) -> jax.Array:
        """What the head reads: [batch, answer length, d]; arguments as for `__call__`."""
        if decoder_input_ids is None:
            decoder_input_ids = jnp.full((len(input_ids), 1), self.config.start_token_id, jnp.int32)
        encoded = self.encode(input_ids, attention_mask, deterministic)
        return self._decode(decoder_input_ids, decoder_mask, encoded, deterministic)

    def encode(
        self, input_ids, attention_mask=None, deterministic: bool = True
    ) -> tuple[jax.Array, jax.Array]:
        """What the answer is written from; for `answer`."""
        mask = counted(input_ids, attention_mask)
        return self.transformer.encode(input_ids, mask, self._numerics(deterministic))

    def answer(self, decoder_input_ids, encoded: tuple) -> jax.Array:
        """Logits [batch, answer length, V] of an answer to what was encoded before."""
        return self._logits(self._decode(decoder_input_ids, None, encoded, True), True)

    def _decode(
        self, decoder_input_ids, decoder_mask, encoded: tuple, deterministic: bool
    ) -> jax.Array:
        mask = counted(decoder_input_ids, decoder_mask)
        hidden = self.transformer.decode(
            decoder_input_ids, mask, encoded, self._numerics(deterministic)
        )
        return (
            hidden * jnp.asarray(hidden.shape[-1] ** -0.5, hidden.dtype)
            if self.config.scaled
            else hidden
        )

    @nn.compact
    def _logits(self, hidden: jax.Array, deterministic: bool) -> jax.Array:
        if self.config.tied:
            return Head(self.transformer.shared.embedding.T).logits(hidden)
        numerics = self._numerics(deterministic)
        return Dense(self.config.vocab_size, numerics, out_dtype=jnp.float32, name="lm_head")(
            hidden
        )


class T5Classifier(Classifier):
    """T5 with a head of two layers on the decoder's last token, where the decoder repeats the text it reads."""

    def setup(self) -> None:
        self.transformer = Backbone(self.config, self._numerics(True), self.remat)

    def hidden_states(
        self, input_ids, attention_mask=None, token_type_ids=None, deterministic: bool = True
    ):
        """The decoder's, [batch, length, d]."""
        numerics = self._numerics(deterministic)
        encoded = self.transformer.encode(input_ids, counted(input_ids, attention_mask), numerics)
        repeated = shift_right(input_ids, self.config.start_token_id)
        return self.transformer.decode(repeated, counted(repeated, None), encoded, numerics)

    def features(
        self, input_ids, attention_mask=None, token_type_ids=None, deterministic: bool = True
    ):
        """What the head reads: [batch, d], at the last end-of-text token, or the last counted one if there is none."""
        hidden = self.hidden_states(input_ids, attention_mask, token_type_ids, deterministic)
        mask = counted(input_ids, attention_mask)
        ends = mask & (input_ids == self.config.eos_token_id)
        return at_last(hidden, jnp.where(ends.any(axis=-1, keepdims=True), ends, mask))

    @nn.compact
    def classify(self, features: jax.Array, deterministic: bool = True) -> jax.Array:
        """[batch, d] -> [batch, labels] float32."""
        numerics = self._numerics(deterministic)
        return TanhHead(
            self.labels, self.config.classifier_dropout, numerics, name="classification_head"
        )(features)


def shift_right(ids: jax.Array, start: int) -> jax.Array:
    """[batch, length] tokens -> the same led by the start token, without the last."""
    return jnp.pad(ids[:, :-1], ((0, 0), (1, 0)), constant_values=start)
