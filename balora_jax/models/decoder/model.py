"""One decoder for Llama, Mistral, Gemma 1 and 2, Qwen 2 and 3, scanned over its layers."""

from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from balora_jax.models.base import CausalLM, LastTokenClassifier
from balora_jax.models.decoder.config import DecoderConfig
from balora_jax.models.layers.attention import Attention
from balora_jax.models.layers.cache import Cache, Reach, look_back, remember
from balora_jax.models.layers.dense import GatedMLP, embed
from balora_jax.models.layers.norms import RMSNorm
from balora_jax.models.layers.options import Numerics
from balora_jax.models.layers.rotary import inverse_frequencies, rotation
from balora_jax.models.layers.stack import stack, stack_beside_teacher


class Layer(nn.Module):
    """Attention and MLP, each with its norm before it (Gemma 2: and after it) and the residual around."""

    config: DecoderConfig
    numerics: Numerics

    @nn.compact
    def __call__(self, x: jax.Array, window, past, turn: tuple, reach: Reach):
        """Args: x [batch, queries, d]; window: int32 scalar or None; past: this layer's keys and values or None."""
        cfg = self.config
        if window is not None:
            reach = reach.replace(mask=reach.mask & (reach.distance < window))
        attention = Attention(
            cfg.heads, cfg.kv_heads, cfg.head_dim, cfg.attention_scale, cfg.attention_softcap, cfg.qkv_bias,
            cfg.out_bias, cfg.norm_eps if cfg.qk_norm else None, self.numerics, name="self_attn",
        )  # fmt: skip
        mlp = GatedMLP(
            cfg.intermediate_size, cfg.activation, cfg.mlp_bias, self.numerics, name="mlp"
        )
        out, new = attention(self._norm("input_layernorm", x), turn, reach, past)
        x = x + (self._norm("post_attention_layernorm", out) if cfg.post_norms else out)
        before = "pre_feedforward_layernorm" if cfg.post_norms else "post_attention_layernorm"
        out = mlp(self._norm(before, x))
        x = x + (self._norm("post_feedforward_layernorm", out) if cfg.post_norms else out)
        return x, None if past is None else new

    def _norm(self, name: str, x: jax.Array) -> jax.Array:
        return RMSNorm(self.config.norm_eps, self.numerics, self.config.norm_offset, name=name)(x)


class Backbone(nn.Module):
    """Embedding, layers and final norm."""

    config: DecoderConfig
    numerics: Numerics
    remat: str

    def setup(self) -> None:
        self.embed_tokens = embed(self.config.vocab_size, self.config.hidden_size, self.numerics)

    @nn.compact
    def __call__(
        self,
        input_ids,
        mask,
        numerics: Numerics,
        cache: Cache | None = None,
        beside_teacher: bool = False,
    ):
        """Args: input_ids [batch, queries]; mask [batch, queries] bool; numerics: for this call's layers.

        Returns: hidden states [batch, queries, d] (a pair of them beside the teacher) and the cache, with the queries
        in it if there is one.
        """
        cfg = self.config
        x = self.embed_tokens(input_ids)
        x = x * jnp.asarray(cfg.embed_scale, x.dtype) if cfg.embed_scale != 1 else x
        positions, reach, cache = look_back(mask, cache)
        turn = rotation(positions, inverse_frequencies(cfg.rope, cfg.head_dim))
        past = None if cache is None else (cache.keys, cache.values)
        stacked = stack_beside_teacher if beside_teacher else stack
        layers = stacked(Layer, cfg.layers, self.remat, (0, 0, nn.broadcast, nn.broadcast))(
            cfg, numerics, name="layers"
        )
        x = (x, x) if beside_teacher else x
        x, new = layers(x, _windows(cfg.windows, reach.mask.shape[-1]), past, turn, reach)
        x = jax.tree.map(RMSNorm(cfg.norm_eps, numerics, cfg.norm_offset, name="norm"), x)
        return x, None if cache is None else remember(cache, *new)


class Decoder(CausalLM):
    """Llama, Mistral, Gemma, Gemma 2, Qwen 2 or Qwen 3 as a language model."""

    embedding_path: ClassVar = ("model", "embed_tokens", "embedding")

    def setup(self) -> None:
        self.model = Backbone(self.config, self._numerics(True), self.remat)

    def _backbone(self, *args):
        return self.model(*args)

    def _embedding(self) -> jax.Array:
        return self.model.embed_tokens.embedding


class DecoderClassifier(LastTokenClassifier):
    """The same decoders as classifiers."""

    def setup(self) -> None:
        self.model = Backbone(self.config, self._numerics(True), self.remat)

    def _backbone(self, *args):
        return self.model(*args)


def _windows(windows: tuple[int | None, ...], keys: int) -> np.ndarray | None:
    """Each layer's window, for the scan; None when none is shorter than the keys."""
    if all(window is None or window >= keys for window in windows):
        return None
    return np.asarray([keys if window is None else window for window in windows], np.int32)
