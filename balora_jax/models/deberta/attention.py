"""DeBERTa's attention to content and to relative position apart (He et al., 2006.03654)."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import struct

from balora_jax.models.deberta.config import DebertaConfig
from balora_jax.models.layers.attention import attend, merge_heads, split_heads
from balora_jax.models.layers.dense import Dense
from balora_jax.models.layers.dropout import drop, dropping
from balora_jax.models.layers.options import Numerics


def position_rows(config: DebertaConfig, length: int) -> np.ndarray:
    """The row of the position table for every distance, query minus key, from -(length - 1) to length - 1.

    Args:
        config: how distances are told apart.
        length: of the text.

    Returns:
        [2 length - 1] int, ascending.
    """
    distance = np.arange(1 - length, length)
    if config.buckets:
        distance = _bucket(distance, config.buckets // 2, config.max_distance)
    return np.clip(distance + config.span, 0, 2 * config.span - 1)


def _bucket(distance: np.ndarray, half: int, farthest: int) -> np.ndarray:
    """Distances up to `half` as they are, those beyond in buckets of logarithmic width (2006.03654, appendix A.5)."""
    size = np.maximum(np.abs(distance), half).astype(np.float32) / np.float32(half)
    widest = np.log(np.float32((farthest - 1) / half))
    far = np.ceil(np.log(size) / widest * np.float32(half - 1)) + half
    return np.where(np.abs(distance) <= half, distance, np.sign(distance) * far).astype(int)


def skew(table: jax.Array) -> jax.Array:
    """Row i moved i steps to the right: out[..., i, j] = table[..., i, n - 1 + j - i].

    Args:
        table: [..., n, 2 n - 1].

    Returns:
        [..., n, n]. A reshape instead of a gather, whose gradient would be a scatter.
    """
    *lead, n, width = table.shape
    flat = jnp.pad(table, [(0, 0)] * (len(lead) + 1) + [(0, 1)]).reshape(*lead, -1)
    return flat[..., n - 1 : n - 1 + n * width].reshape(*lead, n, width)[..., :n]


@struct.dataclass
class Positions:
    """The relative positions a text needs.

    Attributes:
        table: [rows, d], their embeddings.
        rows: [2 length - 1] int, the table's row for every distance, ascending.
    """

    table: jax.Array
    rows: np.ndarray


class DisentangledAttention(nn.Module):
    """softmax((content-content + content-position + position-content) / sqrt(terms * D)) v (2006.03654, eq. 4)."""

    config: DebertaConfig
    numerics: Numerics

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array, positions: Positions | None) -> jax.Array:
        """[batch, length, d], mask [batch, length, length] -> [batch, length, heads * D]."""
        cfg, numerics = self.config, self.numerics
        query_proj, key_proj, value_proj = (
            self._dense(f"{name}_proj") for name in ("query", "key", "value")
        )
        query, key, value = (
            split_heads(dense(x), cfg.heads) for dense in (query_proj, key_proj, value_proj)
        )
        scale = (cfg.head_dim * (1 + cfg.content_to_position + cfg.position_to_content)) ** -0.5
        bias = None
        if positions is not None and (cfg.content_to_position or cfg.position_to_content):
            positions = positions.replace(table=drop(positions.table, cfg.hidden_dropout, numerics))
            bias = scale * self._bias(query, key, positions, query_proj, key_proj)
        out = attend(
            query,
            key,
            value,
            mask,
            scale=scale,
            bias=bias,
            drop=dropping(cfg.attention_dropout, numerics),
        )
        return merge_heads(out)

    def _bias(
        self, query: jax.Array, key: jax.Array, positions: Positions, query_proj, key_proj
    ) -> jax.Array:
        cfg, score = self.config, 0.0
        if cfg.content_to_position:
            places = self._placed(
                positions, key_proj if cfg.shared_kernels else self._dense("pos_key_proj")
            )
            score = score + skew(self._products(query, places[::-1]))
        if cfg.position_to_content:
            places = self._placed(
                positions, query_proj if cfg.shared_kernels else self._dense("pos_query_proj")
            )
            score = score + jnp.swapaxes(skew(self._products(key, places)), -1, -2)
        return score

    def _placed(self, positions: Positions, dense: Dense) -> jax.Array:
        return split_heads(dense(positions.table), self.config.heads)[positions.rows]

    def _products(self, x: jax.Array, places: jax.Array) -> jax.Array:
        return jnp.einsum("bthd,rhd->bhtr", x, places, preferred_element_type=jnp.float32)

    def _dense(self, name: str) -> Dense:
        return Dense(self.config.heads * self.config.head_dim, self.numerics, True, name=name)
