"""The gated MLP of a decoder's layer."""

import jax
from flax import linen as nn

from balora_jax.models.decoder.config import DecoderConfig
from balora_jax.models.layers.activations import ACTIVATIONS
from balora_jax.models.layers.dense import Dense, activate_and_project
from balora_jax.models.layers.options import LayerOptions


class GatedMLP(nn.Module):
    """down(act(gate(x)) * up(x)) (Shazeer, arXiv 2002.05202)."""

    config: DecoderConfig
    options: LayerOptions

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [batch, length, d] to the same shape."""
        cfg = self.config
        activation = ACTIVATIONS[cfg.activation]

        def gated(gate: jax.Array, up: jax.Array) -> jax.Array:
            return activation(gate) * up

        gate = Dense(cfg.intermediate_size, self.options, cfg.mlp_bias, name="gate_proj")(x)
        up = Dense(cfg.intermediate_size, self.options, cfg.mlp_bias, name="up_proj")(x)
        down_proj = Dense(x.shape[-1], self.options, cfg.mlp_bias, name="down_proj")
        return activate_and_project(gated, down_proj, gate, up)
