"""T5's configuration, its buckets of distance and its blocks (Raffel et al., 1910.10683)."""

import dataclasses
import math
from dataclasses import dataclass

import jax
import numpy as np
from flax import linen as nn
from transformers import PretrainedConfig

from balora_jax.models.layers.attention import attend, merge_heads, split_heads
from balora_jax.models.layers.dense import ACTIVATIONS, Dense, check_activation, through
from balora_jax.models.layers.dropout import drop, dropping
from balora_jax.models.layers.norms import RMSNorm
from balora_jax.models.layers.options import Numerics


@dataclass(frozen=True)
class T5Config:
    """The switches of a T5; hashable, so that a model is a static argument of jit."""

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    decoder_layers: int
    heads: int
    head_dim: int
    activation: str
    gated: bool
    norm_eps: float
    dropout: float
    classifier_dropout: float
    # Distances that are told apart, and from which on they are not.
    buckets: int
    max_distance: int
    # The decoder's output is divided by the root of its size before the head (T5 1.0).
    scaled: bool
    # The head is the transposed embedding.
    tied: bool
    init_std: float
    pad_token_id: int | None
    eos_token_id: int | None
    start_token_id: int
    final_softcap: None = None

    @property
    def max_length(self) -> None:
        """Tokens a text may have: any number, positions being relative."""
        return None


def t5_config(hf: PretrainedConfig) -> T5Config:
    """The T5 a Hugging Face configuration describes."""
    scaled = bool(getattr(hf, "scale_decoder_outputs", hf.tie_word_embeddings))
    start = getattr(hf, "decoder_start_token_id", None)
    eos = hf.eos_token_id[0] if isinstance(hf.eos_token_id, list) else hf.eos_token_id
    return T5Config(
        model_type=hf.model_type,
        vocab_size=hf.vocab_size,
        hidden_size=hf.d_model,
        intermediate_size=hf.d_ff,
        layers=hf.num_layers,
        decoder_layers=hf.num_decoder_layers,
        heads=hf.num_heads,
        head_dim=hf.d_kv,
        activation=check_activation(hf.dense_act_fn),
        gated=hf.is_gated_act,
        norm_eps=hf.layer_norm_epsilon,
        dropout=hf.dropout_rate,
        classifier_dropout=hf.classifier_dropout,
        buckets=hf.relative_attention_num_buckets,
        max_distance=hf.relative_attention_max_distance,
        scaled=scaled,
        tied=scaled,
        init_std=hf.initializer_factor * hf.d_model**-0.5,
        pad_token_id=hf.pad_token_id,
        eos_token_id=eos,
        start_token_id=start if start is not None else hf.pad_token_id or 0,
    )


def position_buckets(
    distance: np.ndarray, buckets: int, farthest: int, *, both_ways: bool
) -> np.ndarray:
    """The bucket of every distance, key minus query: half of them one wide, the others wider and wider.

    Args:
        distance: int, of any shape.
        buckets: how many.
        farthest: the distance from which on all share the last bucket.
        both_ways: half of the buckets are for later keys; otherwise those share the first bucket.

    Returns:
        int, of the same shape.
    """
    offset = 0
    if both_ways:
        buckets //= 2
        offset = np.where(distance > 0, buckets, 0)
    far = np.abs(distance) if both_ways else np.maximum(-distance, 0)
    exact = buckets // 2
    ratio = np.log(np.maximum(far, exact).astype(np.float32) / np.float32(exact)) / np.float32(
        math.log(farthest / exact)
    )
    wide = exact + (ratio * np.float32(buckets - exact)).astype(int)
    return offset + np.where(far < exact, far, np.minimum(wide, buckets - 1))


class Attention(nn.Module):
    """Attention whose scores are not scaled; the scale is in the queries' kernel from the start."""

    config: T5Config
    numerics: Numerics

    @nn.compact
    def __call__(
        self, x: jax.Array, context: jax.Array, mask: jax.Array, bias: jax.Array | None
    ) -> jax.Array:
        """[batch, queries, d] looking at context [batch, keys, d] -> [batch, queries, d]."""
        cfg, numerics = self.config, self.numerics
        small = dataclasses.replace(numerics, init_std=numerics.init_std * cfg.head_dim**-0.5)

        def project(x, name, numerics):
            return split_heads(Dense(cfg.heads * cfg.head_dim, numerics, name=name)(x), cfg.heads)

        query = project(x, "q", small)
        key, value = project(context, "k", numerics), project(context, "v", numerics)
        out = attend(
            query, key, value, mask, scale=1.0, bias=bias, drop=dropping(cfg.dropout, numerics)
        )
        return Dense(cfg.hidden_size, numerics, name="o")(merge_heads(out))


class FeedForward(nn.Module):
    """wo(act(wi x)), or wo(act(wi_0 x) * wi_1 x)."""

    config: T5Config
    numerics: Numerics

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        cfg, numerics = self.config, self.numerics
        names = ("wi_0", "wi_1") if cfg.gated else ("wi",)
        wide = [Dense(cfg.intermediate_size, numerics, name=name)(x) for name in names]
        thinned = dropping(cfg.dropout, numerics) or (lambda x: x)

        def act(first: jax.Array, *second: jax.Array) -> jax.Array:
            return thinned(math.prod(second, start=ACTIVATIONS[cfg.activation](first)))

        return through(act, Dense(cfg.hidden_size, numerics, name="wo"), *wide)


class Sublayer(nn.Module):
    """x + drop(inner(norm(x))); the inner module is named as its kind."""

    config: T5Config
    numerics: Numerics
    kind: str

    @nn.compact
    def __call__(
        self, x: jax.Array, context: jax.Array | None = None, mask=None, bias=None
    ) -> jax.Array:
        """Args: context: what attention looks at; None: the normed x itself."""
        cfg, numerics = self.config, self.numerics
        normed = RMSNorm(cfg.norm_eps, numerics, name="layer_norm")(x)
        if self.kind == "DenseReluDense":
            out = FeedForward(cfg, numerics, name=self.kind)(normed)
        else:
            attention = Attention(cfg, numerics, name=self.kind)
            out = attention(normed, normed if context is None else context, mask, bias)
        return x + drop(out, cfg.dropout, numerics)


class Sublayers(nn.Module):
    """Self-attention, in the decoder attention to the encoder, and the feed-forward layer; numbered."""

    config: T5Config
    numerics: Numerics

    @nn.compact
    def __call__(
        self, x: jax.Array, mask: jax.Array, bias: jax.Array, encoded: tuple | None
    ) -> jax.Array:
        cfg, numerics = self.config, self.numerics
        x = Sublayer(cfg, numerics, "SelfAttention", name="0")(x, None, mask, bias)
        if encoded is None:
            return Sublayer(cfg, numerics, "DenseReluDense", name="1")(x)
        x = Sublayer(cfg, numerics, "EncDecAttention", name="1")(x, *encoded)
        return Sublayer(cfg, numerics, "DenseReluDense", name="2")(x)


class Block(nn.Module):
    """One layer."""

    config: T5Config
    numerics: Numerics

    @nn.compact
    def __call__(self, x: jax.Array, mask, bias, encoded: tuple | None) -> tuple[jax.Array, None]:
        return Sublayers(self.config, self.numerics, name="layer")(x, mask, bias, encoded), None
