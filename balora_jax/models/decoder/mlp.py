"""The MLP of a decoder's layer: gated, or a mixture of gated ones."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from balora_jax.models.decoder.config import DecoderConfig
from balora_jax.models.layers.activations import ACTIVATIONS
from balora_jax.models.layers.dense import Dense, activate_and_project
from balora_jax.models.layers.options import LayerOptions
from balora_jax.models.layers.recompute import recomputed


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

        def gated_halves(joined: jax.Array) -> jax.Array:
            return gated(*jnp.split(joined, 2, axis=-1))

        down_proj = Dense(x.shape[-1], self.options, cfg.mlp_bias, name="down_proj")
        if cfg.fused:
            joined = self._project(x, "gate_up_proj", 2 * cfg.intermediate_size)
            return activate_and_project(gated_halves, down_proj, joined)
        gate = self._project(x, "gate_proj", cfg.intermediate_size)
        up = self._project(x, "up_proj", cfg.intermediate_size)
        return activate_and_project(gated, down_proj, gate, up)

    def _project(self, x: jax.Array, name: str, width: int) -> jax.Array:
        return Dense(width, self.options, self.config.mlp_bias, name=name)(x)


class MixtureOfExperts(nn.Module):
    """The sum of a token's k likeliest experts, each times its share (Mixtral, arXiv 2401.04088).

    Every expert computes all tokens, and those of other experts count 0: experts / k times the
    work that the tokens need, in a loop without sorting, capacity or dropped tokens.
    """

    config: DecoderConfig
    options: LayerOptions

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [batch, length, d] to the same shape."""
        cfg = self.config
        shares = Router(cfg, self.options, name="gate")(x)
        experts = Experts(cfg, self.options, name="experts")
        return experts(x, shares)


class Router(nn.Module):
    """A token's share of each expert."""

    config: DecoderConfig
    options: LayerOptions

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Compute [batch, length, experts] float32, of which k are not 0 and sum to 1."""
        cfg = self.config
        init = nn.initializers.normal(self.options.init_std)
        # No kernel: adapters are for linear layers, which the router is not in PEFT either.
        shape = (x.shape[-1], cfg.experts)
        filters = self.param("filters", init, shape, self.options.param_dtype)
        filters = filters.astype(self.options.dtype)
        logits = jnp.matmul(x, filters, preferred_element_type=jnp.float32)
        probabilities = jax.nn.softmax(logits, axis=-1)
        largest, chosen = jax.lax.top_k(probabilities, cfg.experts_per_token)
        largest = largest / jnp.sum(largest, axis=-1, keepdims=True)
        is_chosen = jax.nn.one_hot(chosen, cfg.experts, dtype=jnp.float32)
        return jnp.einsum("...k,...ke->...e", largest, is_chosen)


class Experts(nn.Module):
    """Gated MLPs with their kernels stacked: w1 is the gate's, w3 that of up, w2 that of down."""

    config: DecoderConfig
    options: LayerOptions

    @nn.compact
    def __call__(self, x: jax.Array, shares: jax.Array) -> jax.Array:
        """Map [batch, length, d] and shares [batch, length, experts] to [batch, length, d]."""
        cfg = self.config
        size = x.shape[-1]
        activation = ACTIVATIONS[cfg.activation]
        kernels = (
            ExpertKernels(cfg.experts, size, cfg.intermediate_size, self.options, name="w1")(),
            ExpertKernels(cfg.experts, size, cfg.intermediate_size, self.options, name="w3")(),
            ExpertKernels(cfg.experts, cfg.intermediate_size, size, self.options, name="w2")(),
        )

        def expert(x: jax.Array, share: jax.Array, kernels: tuple) -> jax.Array:
            gate, up, down = kernels
            output = (activation(x @ gate) * (x @ up)) @ down
            return share[..., None] * output.astype(jnp.float32)

        def add(total: jax.Array, one: tuple) -> tuple[jax.Array, None]:
            return total + recomputed(expert)(x, *one), None

        total = jnp.zeros(x.shape, jnp.float32)
        total, _ = jax.lax.scan(add, total, (jnp.moveaxis(shares, -1, 0), kernels))
        return total.astype(self.options.dtype)


class ExpertKernels(nn.Module):
    """The kernels of one layer of all experts."""

    experts: int
    inputs: int
    outputs: int
    options: LayerOptions

    @nn.compact
    def __call__(self) -> jax.Array:
        """Return [experts, in, out]."""
        init = nn.initializers.normal(self.options.init_std)
        shape = (self.experts, self.inputs, self.outputs)
        kernel = self.param("kernel", init, shape, self.options.param_dtype)
        return kernel.astype(self.options.dtype)
