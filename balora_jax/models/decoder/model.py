"""The decoder of Llama and the families like it, scanned over its layers."""

from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from balora_jax.models.base import CausalLM, LastTokenClassifier
from balora_jax.models.decoder.attention import Attention
from balora_jax.models.decoder.config import DecoderConfig
from balora_jax.models.decoder.mlp import GatedMLP, MixtureOfExperts
from balora_jax.models.decoder.sharding import DECODER_RULES
from balora_jax.models.layers.cache import Cache, place_tokens, store, text_lengths
from balora_jax.models.layers.dense import embed
from balora_jax.models.layers.mask import AttentionMask
from balora_jax.models.layers.norms import RMSNorm
from balora_jax.models.layers.options import LayerOptions
from balora_jax.models.layers.packing import Packing
from balora_jax.models.layers.rotary import rotation
from balora_jax.models.layers.stack import stack, stack_beside_teacher


class Layer(nn.Module):
    """Attention and MLP, each with a norm before it, after it or both, and a residual."""

    config: DecoderConfig
    options: LayerOptions

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        window: jax.Array | None,
        turn: jax.Array | None,
        past_key_values: tuple[jax.Array, jax.Array] | None,
        slot: jax.Array | None,
        rotations: tuple[jax.Array, jax.Array],
        mask: AttentionMask,
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array] | None]:
        """Apply one layer.

        Args:
          x: [batch, queries, d].
          window: int32 scalar, the positions a query sees in this layer; None if all layers have
            the same window.
          turn: int32 scalar, the index of the layer's rotation; None if all layers have the same.
          past_key_values: the layer's cached keys and values, each [batch, slots, kv_heads, D]; or
            None.
          slot: int32 scalar, the cache's slot of the first query; None without a cache.
          rotations: cosines and sines of the queries' angles, each [batch, queries, 1, R / 2], or
            [rotations, batch, queries, 1, R / 2] where layers have different ones.
          mask: the keys each query may attend to, but for the window.

        Returns:
          [batch, queries, d], and the new keys and values if there is a cache.
        """
        cfg = self.config
        attention = Attention(cfg, self.options, name="self_attn")
        rotation = rotations
        if turn is not None:
            rotation = jax.tree.map(lambda angles: angles[turn], rotations)

        if window is None:
            # As an int, which a kernel can be made for.
            window = _shared_window(cfg.windows, mask.key_mask.shape[-1])

        normed = self._norm("input_layernorm")(x) if cfg.pre_norms else x
        attended, new_key_values = attention(
            normed, rotation, mask.with_window(window), past_key_values, slot
        )
        if cfg.post_norms:
            attended = self._norm("post_attention_layernorm")(attended)
        x = self._add(x, attended)

        transformed = self._mlp()(self._norm_before_mlp(x))
        if cfg.post_norms:
            transformed = self._norm("post_feedforward_layernorm")(transformed)
        x = self._add(x, transformed)
        return x, None if past_key_values is None else new_key_values

    def _mlp(self) -> GatedMLP | MixtureOfExperts:
        if self.config.experts:
            return MixtureOfExperts(self.config, self.options, name="block_sparse_moe")
        return GatedMLP(self.config, self.options, name="mlp")

    def _norm_before_mlp(self, x: jax.Array) -> jax.Array:
        if not self.config.pre_norms:
            return x
        # Llama's post_attention_layernorm stands before the MLP; Gemma 2's, after the attention.
        post_norms = self.config.post_norms
        name = "pre_feedforward_layernorm" if post_norms else "post_attention_layernorm"
        return self._norm(name)(x)

    def _add(self, x: jax.Array, change: jax.Array) -> jax.Array:
        if self.config.residual_scale != 1:
            change = _scaled(change, self.config.residual_scale)
        return x + change

    def _norm(self, name: str) -> RMSNorm:
        return RMSNorm(self.config.norm_eps, self.options, self.config.norm_offset, name=name)


def _scaled(x: jax.Array, scale: float) -> jax.Array:
    """X times a factor that is not rounded to x's element type."""
    return (x.astype(jnp.float32) * scale).astype(x.dtype)


class Backbone(nn.Module):
    """Embedding, layers and final norm."""

    config: DecoderConfig
    options: LayerOptions
    remat: str

    def setup(self) -> None:
        self.embed_tokens = embed(self.config.vocab_size, self.config.hidden_size, self.options)

    @nn.compact
    def __call__(
        self,
        input_ids: jax.Array,
        attention_mask: jax.Array,
        options: LayerOptions,
        cache: Cache | None = None,
        beside_teacher: bool = False,
        packing: Packing | None = None,
    ):
        """Compute the hidden states after the final norm.

        Args:
          input_ids: [batch, queries] int32.
          attention_mask: [batch, queries] bool, True at tokens.
          options: this call's layer options.
          cache: the tokens before these, or None.
          beside_teacher: True to compute the teacher's hidden states, too.
          packing: the texts of each row; None for one text a row.

        Returns:
          Hidden states [batch, queries, d], or the student's and the teacher's as a pair; and the
          cache with the new tokens, or None.
        """
        cfg = self.config
        x = self.embed_tokens(input_ids)
        if cfg.embed_scale != 1:
            x = x * jnp.asarray(cfg.embed_scale, x.dtype)

        positions, mask, cache = place_tokens(attention_mask, cache, packing)
        rotations, turns = _rotations(cfg, positions, cache)
        windows = _window_array(cfg.windows, mask.key_mask.shape[-1])
        past_key_values = None if cache is None else (cache.keys, cache.values)
        slot = None if cache is None else cache.length

        stack_layers = stack_beside_teacher if beside_teacher else stack
        in_axes = (0, 0, 0, nn.broadcast, nn.broadcast, nn.broadcast)
        layers = stack_layers(Layer, cfg.layers, self.remat, in_axes)(cfg, options, name="layers")
        if beside_teacher:
            x = (x, x)
        x, new_key_values = layers(x, windows, turns, past_key_values, slot, rotations, mask)
        x = jax.tree.map(RMSNorm(cfg.norm_eps, options, cfg.norm_offset, name="norm"), x)
        if cfg.hidden_scale != 1:
            x = jax.tree.map(lambda x: _scaled(x, cfg.hidden_scale), x)
        if cache is None:
            return x, None
        return x, store(cache, *new_key_values)


class Decoder(CausalLM):
    """A decoder as a language model."""

    embedding_path: ClassVar = ("model", "embed_tokens", "embedding")
    sharding_rules: ClassVar = DECODER_RULES

    def setup(self) -> None:
        self.model = Backbone(self.config, self._options(deterministic=True), self.remat)

    def _backbone(self, *args):
        return self.model(*args)

    def _embedding(self) -> jax.Array:
        return self.model.embed_tokens.embedding


class TextPart(nn.Module):
    """The text part of a model of texts and images: the decoder, under one more name."""

    config: DecoderConfig
    options: LayerOptions
    remat: str

    def setup(self) -> None:
        self.language_model = Backbone(self.config, self.options, self.remat)

    def __call__(self, *args):
        return self.language_model(*args)


class TextPartDecoder(CausalLM):
    """The text part of a model of texts and images as a language model (Gemma 3)."""

    embedding_path: ClassVar = ("model", "language_model", "embed_tokens", "embedding")
    sharding_rules: ClassVar = DECODER_RULES
    is_part: ClassVar = True

    def setup(self) -> None:
        self.model = TextPart(self.config, self._options(deterministic=True), self.remat)

    def _backbone(self, *args):
        return self.model(*args)

    def _embedding(self) -> jax.Array:
        return self.model.language_model.embed_tokens.embedding


class DecoderClassifier(LastTokenClassifier):
    """The same decoders as classifiers."""

    sharding_rules: ClassVar = DECODER_RULES

    def setup(self) -> None:
        self.model = Backbone(self.config, self._options(deterministic=True), self.remat)

    def _backbone(self, *args):
        return self.model(*args)


def _rotations(
    cfg: DecoderConfig, positions: jax.Array, cache: Cache | None
) -> tuple[tuple[jax.Array, jax.Array], np.ndarray | None]:
    """Compute the angles of the layers' rotations, each once.

    Args:
      cfg: the decoder's configuration.
      positions: [batch, queries] int32, as `place_tokens` returned them.
      cache: likewise.

    Returns:
      Cosines and sines, and each layer's index into them, [layers] int32; None if all layers have
      the same rotation, which then has no leading axis.
    """
    kinds = list(dict.fromkeys(cfg.ropes))
    depend = any(rope is not None and rope.kind == "longrope" for rope in kinds)
    lengths = text_lengths(positions, cache) if depend else None
    angles = [rotation(rope, cfg.rotary_dim, positions, lengths) for rope in kinds]
    if len(kinds) == 1:
        return angles[0], None
    turns = np.asarray([kinds.index(rope) for rope in cfg.ropes], np.int32)
    cosines, sines = zip(*angles, strict=True)
    return (jnp.stack(cosines), jnp.stack(sines)), turns


def _window_array(windows: tuple[int | None, ...], keys: int) -> np.ndarray | None:
    """Convert the layers' windows to an array for the scan.

    Args:
      windows: of each layer; None for all positions.
      keys: number of keys.

    Returns:
      [layers] int32; None if the layers' windows are the same.
    """
    lengths = [keys if window is None else min(window, keys) for window in windows]
    if len(set(lengths)) == 1:
        return None
    return np.asarray(lengths, np.int32)


def _shared_window(windows: tuple[int | None, ...], keys: int) -> int | None:
    """Return the window of all layers where `_window_array` has none; None for all positions."""
    window = windows[0]
    return window if window is not None and window < keys else None
