"""T5's buckets of relative position, and its blocks (Raffel et al., arXiv 1910.10683)."""

import dataclasses
import math

import jax
import numpy as np
from flax import linen as nn

from balora_jax.models.layers.activations import ACTIVATIONS
from balora_jax.models.layers.attention import attend, merge_heads, split_heads
from balora_jax.models.layers.dense import Dense, activate_and_project
from balora_jax.models.layers.dropout import dropout, dropout_function
from balora_jax.models.layers.mask import AttentionMask
from balora_jax.models.layers.norms import RMSNorm
from balora_jax.models.layers.options import LayerOptions
from balora_jax.models.t5.config import T5Config


def position_buckets(
    distance: np.ndarray, buckets: int, max_distance: int, *, both_ways: bool
) -> np.ndarray:
    """Map distances to buckets: half of them of width one, the others of logarithmic width.

    Args:
      distance: int, any shape: position of the key minus that of the query.
      buckets: number of buckets.
      max_distance: the distance from which on all share the last bucket.
      both_ways: True to give half of the buckets to later keys; otherwise those share the first
        bucket.

    Returns:
      int, of the same shape.
    """
    offset = 0
    if both_ways:
        buckets //= 2
        offset = np.where(distance > 0, buckets, 0)
        distance = np.abs(distance)
    else:
        distance = np.maximum(-distance, 0)

    # Distances below `exact` have a bucket each; the others are spread by their logarithm.
    exact = buckets // 2
    log_distance = np.log(np.maximum(distance, exact).astype(np.float32) / np.float32(exact))
    max_log_distance = np.float32(math.log(max_distance / exact))
    share = log_distance / max_log_distance
    far_bucket = exact + (share * np.float32(buckets - exact)).astype(int)
    far_bucket = np.minimum(far_bucket, buckets - 1)
    return offset + np.where(distance < exact, distance, far_bucket)


class Attention(nn.Module):
    """Attention without a factor of the scores: the initial query kernel holds it."""

    config: T5Config
    options: LayerOptions

    @nn.compact
    def __call__(
        self, x: jax.Array, context: jax.Array, mask: AttentionMask, bias: jax.Array | None
    ) -> jax.Array:
        """Attend from x to the context.

        Args:
          x: [batch, queries, d].
          context: [batch, keys, d].
          mask: the keys each query may attend to.
          bias: [1, heads, queries, keys] float32, added to the scores; or None.

        Returns:
          [batch, queries, d].
        """
        cfg = self.config
        query_init_std = self.options.init_std * cfg.head_dim**-0.5
        query_options = dataclasses.replace(self.options, init_std=query_init_std)
        query = self._project(x, "q", query_options)
        key = self._project(context, "k", self.options)
        value = self._project(context, "v", self.options)
        weights_dropout = dropout_function(cfg.dropout, self.options)
        output = attend(
            query, key, value, mask, self.options, scale=1.0, bias=bias, dropout=weights_dropout
        )
        return Dense(cfg.hidden_size, self.options, name="o")(merge_heads(output))

    def _project(self, x: jax.Array, name: str, options: LayerOptions) -> jax.Array:
        cfg = self.config
        dense = Dense(cfg.heads * cfg.head_dim, options, name=name)
        return split_heads(dense(x), cfg.heads)


class FeedForward(nn.Module):
    """wo(act(wi x)); if gated, wo(act(wi_0 x) * wi_1 x); with dropout before wo."""

    config: T5Config
    options: LayerOptions

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [batch, length, d] to the same shape."""
        cfg = self.config
        names = ("wi_0", "wi_1") if cfg.gated else ("wi",)
        wide = [Dense(cfg.intermediate_size, self.options, name=name)(x) for name in names]
        drop_elements = dropout_function(cfg.dropout, self.options)

        def activation(first: jax.Array, *second: jax.Array) -> jax.Array:
            product = ACTIVATIONS[cfg.activation](first)
            for factor in second:
                product = product * factor
            if drop_elements is None:
                return product
            return drop_elements(product)

        wo = Dense(cfg.hidden_size, self.options, name="wo")
        return activate_and_project(activation, wo, *wide)


class Sublayer(nn.Module):
    """x + dropout(inner(norm(x))).

    Attributes:
      kind: name of the inner module: "SelfAttention", "EncDecAttention" or "DenseReluDense".
    """

    config: T5Config
    options: LayerOptions
    kind: str

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        context: jax.Array | None = None,
        mask: AttentionMask | None = None,
        bias: jax.Array | None = None,
    ) -> jax.Array:
        """Apply the sublayer.

        Args:
          x: [batch, length, d].
          context: [batch, keys, d], for attention; the norm of x if None.
          mask: the keys each query may attend to, for attention.
          bias: [1, heads, queries, keys] float32, for attention; or None.

        Returns:
          [batch, length, d].
        """
        cfg = self.config
        normed = RMSNorm(cfg.norm_eps, self.options, name="layer_norm")(x)
        if self.kind == "DenseReluDense":
            output = FeedForward(cfg, self.options, name=self.kind)(normed)
        else:
            attention = Attention(cfg, self.options, name=self.kind)
            output = attention(normed, normed if context is None else context, mask, bias)
        return x + dropout(output, cfg.dropout, self.options)


class Sublayers(nn.Module):
    """Self-attention, in the decoder also attention to the encoder, and feed-forward; numbered."""

    config: T5Config
    options: LayerOptions

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        mask: AttentionMask,
        bias: jax.Array,
        encoded: tuple[jax.Array, AttentionMask] | None,
    ) -> jax.Array:
        """Apply one block; arguments as for `Block`."""
        cfg = self.config
        x = Sublayer(cfg, self.options, "SelfAttention", name="0")(x, None, mask, bias)
        if encoded is None:
            return Sublayer(cfg, self.options, "DenseReluDense", name="1")(x)
        context, context_mask = encoded
        x = Sublayer(cfg, self.options, "EncDecAttention", name="1")(x, context, context_mask)
        return Sublayer(cfg, self.options, "DenseReluDense", name="2")(x)


class Block(nn.Module):
    """One layer of the encoder or decoder."""

    config: T5Config
    options: LayerOptions

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        mask: AttentionMask,
        bias: jax.Array,
        encoded: tuple[jax.Array, AttentionMask] | None,
    ) -> tuple[jax.Array, None]:
        """Apply one block.

        Args:
          x: [batch, length, d].
          mask: the keys each query of the self-attention may attend to.
          bias: [1, heads, length, length] float32, the self-attention's bias.
          encoded: in the decoder, the encoder's output [batch, keys, d] and the mask of attention
            to it; None in the encoder.

        Returns:
          [batch, length, d], and None, the block's output in a scan.
        """
        sublayers = Sublayers(self.config, self.options, name="layer")
        return sublayers(x, mask, bias, encoded), None
