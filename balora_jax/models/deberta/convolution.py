"""The convolution that some DeBERTas add after their first layer."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from balora_jax.models.bert.encoder import EncoderLayer
from balora_jax.models.deberta.config import DebertaConfig
from balora_jax.models.layers.dense import ACTIVATIONS
from balora_jax.models.layers.dropout import drop
from balora_jax.models.layers.norms import layer_normed
from balora_jax.models.layers.options import Numerics


@struct.dataclass
class Convolved:
    """What the convolution adds after the first layer, and the norm that follows.

    Attributes:
        added: [batch, length, d].
        mask: [batch, length] bool.
        scale, bias: [d], the norm's.
        eps: the norm's; static.
    """

    added: jax.Array
    mask: jax.Array
    scale: jax.Array
    bias: jax.Array
    eps: float = struct.field(pytree_node=False)

    def apply(self, x: jax.Array) -> jax.Array:
        """norm(x + added), zero where the mask is False."""
        normed = layer_normed(x + self.added, self.scale, self.bias, self.eps)
        return (normed * self.mask[..., None]).astype(x.dtype)


class ConvolvedLayer(EncoderLayer):
    """A layer; after the first, the convolution is added."""

    def __call__(self, x, first, mask, positions, convolved: Convolved):
        """Args: as for EncoderLayer; first: bool scalar."""
        x, _ = super().__call__(x, mask, positions)
        return jnp.where(first, convolved.apply(x), x), None


class Convolution(nn.Module):
    """act(conv(embeddings)) along the text; it needs no layer's result, so it is computed before them."""

    config: DebertaConfig
    numerics: Numerics

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> Convolved:
        cfg = self.config
        y = Filters(cfg, self.numerics, name="conv")(x) * mask[..., None]
        y = ACTIVATIONS[cfg.conv_activation](drop(y, cfg.hidden_dropout, self.numerics))
        scale, bias = NormParams(self.numerics, name="LayerNorm")(x.shape[-1])
        return Convolved(y, mask, scale, bias, cfg.norm_eps)


class Filters(nn.Module):
    """The convolution's weights, [width, in / groups, out]; no dense kernel, so no adapter's target."""

    config: DebertaConfig
    numerics: Numerics

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        cfg, numerics, size = self.config, self.numerics, self.config.hidden_size
        shape = (cfg.conv_width, size // cfg.conv_groups, size)
        filters = self.param(
            "filters", nn.initializers.normal(numerics.init_std), shape, numerics.param_dtype
        )
        bias = self.param("bias", nn.initializers.zeros, (size,), numerics.param_dtype)
        y = jax.lax.conv_general_dilated(
            x, filters.astype(x.dtype), (1,), [((cfg.conv_width - 1) // 2,) * 2],
            dimension_numbers=("NWC", "WIO", "NWC"), feature_group_count=cfg.conv_groups,
        )  # fmt: skip
        return y + bias.astype(y.dtype)


class NormParams(nn.Module):
    """A norm's scale and bias, for use elsewhere."""

    numerics: Numerics

    @nn.compact
    def __call__(self, size: int) -> tuple[jax.Array, jax.Array]:
        scale = self.param("scale", nn.initializers.ones, (size,), self.numerics.param_dtype)
        return scale, self.param("bias", nn.initializers.zeros, (size,), self.numerics.param_dtype)
