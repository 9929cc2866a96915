"""The layers every model here is made of: Dense with its adapter, activations, embeddings.

Dense is the one place where a model meets its adapter: it reads the `lora` collection when it holds something
for this module, and is a plain dense layer when it does not.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from balora_jax.errors import BadInput
from balora_jax.models.layers.dropout import drop
from balora_jax.models.layers.options import Numerics

ACTIVATIONS = {
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_new": lambda x: jax.nn.gelu(x, approximate=True),
    "gelu_pytorch_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
}


def check_activation(name: str) -> str:
    """The name itself.

    Raises:
        BadInput: no activation of that name is known here.
    """
    if name not in ACTIVATIONS:
        raise BadInput(f"config.json's activation is {name!r}; accepted: {', '.join(ACTIVATIONS)}")
    return name


class Dense(nn.Module):
    """y = x W + b, and + (x A) B when the `lora` collection holds `a` and `b` here (Hu et al., 2106.09685, eq. 3).

    The adapter's scale is folded into B; a difference of two adapters is one of twice the rank.
    """

    features: int
    numerics: Numerics
    use_bias: bool = False
    # The product's element type, when it is not to be the computing type.
    out_dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        numerics = self.numerics
        shape = (x.shape[-1], self.features)
        kernel = self.param(
            "kernel", nn.initializers.normal(numerics.init_std), shape, numerics.param_dtype
        )
        x = x.astype(numerics.dtype)
        y = jnp.matmul(x, kernel.astype(numerics.dtype), preferred_element_type=self.out_dtype)
        if self.has_variable("lora", "a"):
            y = y + self._side_path(x)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,), numerics.param_dtype)
            y = y + bias.astype(y.dtype)
        return y

    def _side_path(self, x: jax.Array) -> jax.Array:
        a, b = (self.get_variable("lora", name).astype(x.dtype) for name in ("a", "b"))
        x = drop(x, self.numerics.lora_dropout, self.numerics)
        return _widened(x @ a, b, self.out_dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _widened(narrow: jax.Array, b: jax.Array, out_dtype: DTypeLike | None) -> jax.Array:
    """[..., rank] @ [rank, out], with B's gradient as narrow^T @ change.

    Left to itself jax has it as (change^T @ narrow)^T, and a CPU then copies the wide side transposed: with the
    activation's derivative fused into that copy, it takes longer than the layer's other products.
    """
    return jnp.matmul(narrow, b, preferred_element_type=out_dtype)


def _widened_forward(narrow, b, out_dtype):
    return _widened(narrow, b, out_dtype), (narrow, b)


def _widened_backward(out_dtype, saved, change):
    narrow, b = saved
    tokens = tuple(range(narrow.ndim - 1))
    to_b = jnp.tensordot(narrow, change, (tokens, tokens), preferred_element_type=b.dtype)
    return jnp.matmul(change, b.T, preferred_element_type=narrow.dtype), to_b


_widened.defvjp(_widened_forward, _widened_backward)


def embed(rows: int, size: int, numerics: Numerics, name: str | None = None) -> nn.Embed:
    """An embedding table that starts and computes as its model does."""
    init = nn.initializers.normal(numerics.init_std)
    return nn.Embed(
        rows, size, numerics.dtype, numerics.param_dtype, embedding_init=init, name=name
    )


def through(act: Callable[..., jax.Array], dense: Dense, *wide: jax.Array) -> jax.Array:
    """dense(act(*wide)), of which the backward pass keeps act's arguments alone and makes its outcome again.

    The product itself is not made again: nothing in the backward pass asks for it.
    """
    return nn.remat(lambda dense, *wide: dense(act(*wide)), prevent_cse=False)(dense, *wide)


class GatedMLP(nn.Module):
    """down(act(gate(x)) * up(x)) (Shazeer, 2002.05202)."""

    width: int
    activation: str
    use_bias: bool
    numerics: Numerics

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        act = ACTIVATIONS[self.activation]
        gate = Dense(self.width, self.numerics, self.use_bias, name="gate_proj")(x)
        up = Dense(self.width, self.numerics, self.use_bias, name="up_proj")(x)
        down = Dense(x.shape[-1], self.numerics, self.use_bias, name="down_proj")
        return through(lambda gate, up: act(gate) * up, down, gate, up)
