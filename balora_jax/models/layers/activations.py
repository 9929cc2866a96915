"""Activation functions by their Hugging Face names."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from balora_jax.errors import BadInput, shown

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_new": lambda x: jax.nn.gelu(x, approximate=True),
    "gelu_pytorch_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
}


def check_activation(name: str) -> str:
    """Return the name unchanged if it is a known activation.

    Args:
      name: an activation's name in config.json.

    Returns:
      The same name, a key of ACTIVATIONS.

    Raises:
      BadInput: no activation of that name is known.
    """
    if name not in ACTIVATIONS:
        accepted = ", ".join(ACTIVATIONS)
        raise BadInput(f"config.json's activation is {shown(name)}; accepted: {accepted}")
    return name
