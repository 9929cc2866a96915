"""Disentangled attention: to content and to relative position (He et al., arXiv 2006.03654)."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import struct

from balora_jax.models.deberta.config import DebertaConfig
from balora_jax.models.layers.attention import attend, merge_heads, split_heads
from balora_jax.models.layers.dense import Dense
from balora_jax.models.layers.dropout import dropout, dropout_function
from balora_jax.models.layers.mask import AttentionMask
from balora_jax.models.layers.options import LayerOptions


def position_rows(config: DebertaConfig, length: int) -> np.ndarray:
    """Compute the row of the position table for every distance in a text.

    Args:
      config: the configuration.
      length: tokens of the text.

    Returns:
      [2 length - 1] int, ascending: the rows of the distances, query minus key, from -(length - 1)
      to length - 1.
    """
    distance = np.arange(1 - length, length)
    if config.buckets:
        distance = _bucket(distance, config.buckets // 2, config.max_distance)
    return np.clip(distance + config.span, 0, 2 * config.span - 1)


def _bucket(distance: np.ndarray, half: int, max_distance: int) -> np.ndarray:
    """Map distances to buckets (arXiv 2006.03654, appendix A.5).

    Args:
      distance: int, any shape.
      half: distances up to this one are buckets of their own; those beyond share buckets of
        logarithmic width.
      max_distance: the distance at which the last bucket starts.

    Returns:
      int, of the same shape and sign.
    """
    size = np.maximum(np.abs(distance), half).astype(np.float32) / np.float32(half)
    max_log = np.log(np.float32((max_distance - 1) / half))
    far_bucket = np.ceil(np.log(size) / max_log * np.float32(half - 1)) + half
    is_near = np.abs(distance) <= half
    return np.where(is_near, distance, np.sign(distance) * far_bucket).astype(int)


def skew(table: jax.Array) -> jax.Array:
    """Select from each row the values of its own distances.

    Row i is shifted by i: out[..., i, j] = table[..., i, n - 1 + j - i]. For n = 3:

      [[a, b, c, d, e],        [[c, d, e],
       [f, g, h, i, j],   ->    [g, h, i],
       [k, l, m, n, o]]         [k, l, m]]

    This is a reshape and not a gather, whose gradient would be a scatter.

    Args:
      table: [..., n, 2 n - 1].

    Returns:
      [..., n, n].
    """
    *lead, n, width = table.shape
    one_column = [(0, 0)] * (len(lead) + 1) + [(0, 1)]
    flat = jnp.pad(table, one_column).reshape(*lead, -1)
    shifted = flat[..., n - 1 : n - 1 + n * width].reshape(*lead, n, width)
    return shifted[..., :n]


@struct.dataclass
class RelativePositions:
    """The relative positions of a text.

    Attributes:
      table: [rows, d], the embeddings of relative positions.
      rows: [2 length - 1] int, the table's row of every distance, ascending.
    """

    table: jax.Array
    rows: np.ndarray


class DisentangledAttention(nn.Module):
    """Attention with scores of content and relative position (arXiv 2006.03654, equation 4).

    softmax((content-content + content-position + position-content) / sqrt(terms * D)) v.
    """

    config: DebertaConfig
    options: LayerOptions

    @nn.compact
    def __call__(
        self, x: jax.Array, mask: AttentionMask, positions: RelativePositions | None
    ) -> jax.Array:
        """Attend from each position to those the mask allows.

        Args:
          x: [batch, length, d].
          mask: the keys each query may attend to.
          positions: the text's relative positions; None for scores of content alone.

        Returns:
          [batch, length, heads * D], the heads side by side.
        """
        cfg = self.config
        query_proj = self._dense("query_proj")
        key_proj = self._dense("key_proj")
        value_proj = self._dense("value_proj")
        query = split_heads(query_proj(x), cfg.heads)
        key = split_heads(key_proj(x), cfg.heads)
        value = split_heads(value_proj(x), cfg.heads)

        terms = 1 + cfg.content_to_position + cfg.position_to_content
        scale = (cfg.head_dim * terms) ** -0.5
        bias = None
        if positions is not None and terms > 1:
            table = dropout(positions.table, cfg.hidden_dropout, self.options)
            positions = positions.replace(table=table)
            bias = scale * self._position_scores(query, key, positions, query_proj, key_proj)
        weights_dropout = dropout_function(cfg.attention_dropout, self.options)
        output = attend(
            query, key, value, mask, self.options, scale=scale, bias=bias, dropout=weights_dropout
        )
        return merge_heads(output)

    def _position_scores(
        self,
        query: jax.Array,
        key: jax.Array,
        positions: RelativePositions,
        query_proj: Dense,
        key_proj: Dense,
    ) -> jax.Array:
        """Compute the scores of content and position: [batch, heads, queries, keys] float32."""
        cfg = self.config
        scores = 0.0

        if cfg.content_to_position:
            dense = key_proj if cfg.shared_kernels else self._dense("pos_key_proj")
            position_keys = self._project_positions(positions, dense)
            scores = scores + skew(self._products(query, position_keys[::-1]))

        if cfg.position_to_content:
            dense = query_proj if cfg.shared_kernels else self._dense("pos_query_proj")
            position_queries = self._project_positions(positions, dense)
            transposed_scores = skew(self._products(key, position_queries))
            scores = scores + jnp.swapaxes(transposed_scores, -1, -2)
        return scores

    def _project_positions(self, positions: RelativePositions, dense: Dense) -> jax.Array:
        """Project the embedding of every distance: [2 length - 1, heads, D]."""
        projected = split_heads(dense(positions.table), self.config.heads)
        return projected[positions.rows]

    def _products(self, x: jax.Array, distances: jax.Array) -> jax.Array:
        """Multiply every token [batch, length, heads, D] with every distance."""
        return jnp.einsum("bthd,rhd->bhtr", x, distances, preferred_element_type=jnp.float32)

    def _dense(self, name: str) -> Dense:
        return Dense(self.config.heads * self.config.head_dim, self.options, True, name=name)
