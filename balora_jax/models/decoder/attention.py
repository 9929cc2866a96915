"""Self-attention with rotated queries and keys."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from balora_jax.models.decoder.config import DecoderConfig
from balora_jax.models.layers.attention import attend, merge_heads, split_heads
from balora_jax.models.layers.cache import insert
from balora_jax.models.layers.dense import Dense
from balora_jax.models.layers.mask import AttentionMask
from balora_jax.models.layers.norms import RMSNorm
from balora_jax.models.layers.options import LayerOptions
from balora_jax.models.layers.rotary import rotate


class Attention(nn.Module):
    """Self-attention of a decoder's layer, with rotary position embedding."""

    config: DecoderConfig
    options: LayerOptions

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        rotation: tuple[jax.Array, jax.Array],
        mask: AttentionMask,
        past_key_values: tuple[jax.Array, jax.Array] | None,
        slot: jax.Array | None,
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """Attend from each position to those its mask allows.

        Args:
          x: [batch, queries, d].
          rotation: cosines and sines of the queries' angles, each [batch, queries, 1, R / 2].
          mask: the keys each query may attend to.
          past_key_values: the layer's cached keys and values, each [batch, slots, kv_heads, D]; or
            None.
          slot: int32 scalar, the cache's slot of the first query; None without a cache.

        Returns:
          [batch, queries, d], and the new keys and values, each [batch, queries, kv_heads, D].
        """
        cfg = self.config
        query, key, value = self._fused(x) if cfg.fused else self._separate(x)
        if cfg.qk_norm == "projection":
            query = self._norm("q_norm")(query)
            key = self._norm("k_norm")(key)
        query = split_heads(query, cfg.heads)
        key = split_heads(key, cfg.kv_heads)
        value = split_heads(value, cfg.kv_heads)
        if cfg.qk_norm == "head":
            query = self._norm("q_norm")(query)
            key = self._norm("k_norm")(key)
        query = rotate(query, *rotation)
        key = rotate(key, *rotation)

        keys = key
        values = value
        if past_key_values is not None:
            keys, values = insert(past_key_values, key, value, slot)
        output = attend(
            query,
            keys,
            values,
            mask,
            self.options,
            scale=cfg.attention_scale,
            softcap=cfg.attention_softcap,
        )
        o_proj = Dense(x.shape[-1], self.options, cfg.out_bias, name="o_proj")
        return o_proj(merge_heads(output)), (key, value)

    def _separate(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Queries [batch, length, heads * D], keys and values [batch, length, kv_heads * D]."""
        query = self._project(x, "q_proj", self.config.heads)
        key = self._project(x, "k_proj", self.config.kv_heads)
        value = self._project(x, "v_proj", self.config.kv_heads)
        return query, key, value

    def _fused(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The same by one projection, whose columns are those of queries, keys and values."""
        cfg = self.config
        joined = self._project(x, "qkv_proj", cfg.heads + 2 * cfg.kv_heads)
        first_key = cfg.heads * cfg.head_dim
        first_value = first_key + cfg.kv_heads * cfg.head_dim
        query, key, value = jnp.split(joined, (first_key, first_value), axis=-1)
        return query, key, value

    def _project(self, x: jax.Array, name: str, heads: int) -> jax.Array:
        cfg = self.config
        return Dense(heads * cfg.head_dim, self.options, cfg.qkv_bias, name=name)(x)

    def _norm(self, name: str) -> RMSNorm:
        return RMSNorm(self.config.norm_eps, self.options, self.config.norm_offset, name=name)
