"""The convolution that some DeBERTa models add after their first layer."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from balora_jax.models.bert.encoder import EncoderLayer
from balora_jax.models.deberta.attention import RelativePositions
from balora_jax.models.deberta.config import DebertaConfig
from balora_jax.models.layers.activations import ACTIVATIONS
from balora_jax.models.layers.dropout import dropout
from balora_jax.models.layers.mask import AttentionMask
from balora_jax.models.layers.norms import layer_norm
from balora_jax.models.layers.options import LayerOptions


@struct.dataclass
class ConvolutionOutput:
    """The convolution's output, and the norm that follows its addition.

    Attributes:
      output: [batch, length, d].
      attention_mask: [batch, length] bool, True at tokens.
      scale: [d], the norm's scale.
      bias: [d], the norm's bias.
      eps: the norm's epsilon; static.
    """

    output: jax.Array
    attention_mask: jax.Array
    scale: jax.Array
    bias: jax.Array
    eps: float = struct.field(pytree_node=False)

    def add_to(self, x: jax.Array) -> jax.Array:
        """Compute norm(x + output), zero at padding, for x [batch, length, d]."""
        normed = layer_norm(x + self.output, self.scale, self.bias, self.eps)
        return (normed * self.attention_mask[..., None]).astype(x.dtype)


class ConvolvedLayer(EncoderLayer):
    """A layer that adds the convolution's output if it is the first."""

    def __call__(
        self,
        x: jax.Array,
        is_first: jax.Array,
        mask: AttentionMask,
        positions: RelativePositions | None,
        convolution: ConvolutionOutput,
    ) -> tuple[jax.Array, None]:
        """Apply one layer; `is_first` is a bool scalar, the rest is as for EncoderLayer."""
        x, _ = super().__call__(x, mask, positions)
        return jnp.where(is_first, convolution.add_to(x), x), None


class Convolution(nn.Module):
    """activation(conv(embeddings)) along the text; computed before the layers, as it needs none."""

    config: DebertaConfig
    options: LayerOptions

    @nn.compact
    def __call__(self, x: jax.Array, attention_mask: jax.Array) -> ConvolutionOutput:
        """Convolve embeddings [batch, length, d]; attention_mask [batch, length] bool."""
        cfg = self.config
        y = Filters(cfg, self.options, name="conv")(x) * attention_mask[..., None]
        y = dropout(y, cfg.hidden_dropout, self.options)
        y = ACTIVATIONS[cfg.conv_activation](y)
        scale, bias = NormParams(self.options, name="LayerNorm")(x.shape[-1])
        return ConvolutionOutput(y, attention_mask, scale, bias, cfg.norm_eps)


class Filters(nn.Module):
    """A convolution with filters [width, in / groups, out]; not a kernel that adapters target."""

    config: DebertaConfig
    options: LayerOptions

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Convolve [batch, length, d] along the length, at the same length."""
        cfg = self.config
        size = cfg.hidden_size
        shape = (cfg.conv_width, size // cfg.conv_groups, size)
        filters_init = nn.initializers.normal(self.options.init_std)
        filters = self.param("filters", filters_init, shape, self.options.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (size,), self.options.param_dtype)
        padding = (cfg.conv_width - 1) // 2
        y = jax.lax.conv_general_dilated(
            x,
            filters.astype(x.dtype),
            window_strides=(1,),
            padding=[(padding, padding)],
            dimension_numbers=("NWC", "WIO", "NWC"),
            feature_group_count=cfg.conv_groups,
        )
        return y + bias.astype(y.dtype)


class NormParams(nn.Module):
    """The scale and bias of a norm that is applied elsewhere."""

    options: LayerOptions

    @nn.compact
    def __call__(self, size: int) -> tuple[jax.Array, jax.Array]:
        """Return the scale and the bias, each [size]."""
        dtype = self.options.param_dtype
        scale = self.param("scale", nn.initializers.ones, (size,), dtype)
        bias = self.param("bias", nn.initializers.zeros, (size,), dtype)
        return scale, bias
