"""The output layer by itself, for objectives that go from hidden states to a loss without all the logits."""

import functools

import jax
import jax.numpy as jnp
from flax import struct


@struct.dataclass
class Head:
    """What turns the last hidden states into logits.

    Attributes:
        kernel: [d, V].
        bias: [V], or None.
        softcap: c of c * tanh(logits / c) (Gemma 2), or None; static.
    """

    kernel: jax.Array
    bias: jax.Array | None = None
    softcap: float | None = struct.field(pytree_node=False, default=None)

    def logits(self, hidden: jax.Array) -> jax.Array:
        """The model's logits.

        Args:
            hidden: [..., d], as the model's `hidden_states` returns them.

        Returns:
            [..., V] float32; the product is made in the type of `hidden`.
        """
        kernel = self.kernel.astype(hidden.dtype)
        logits = jnp.matmul(hidden, kernel, preferred_element_type=jnp.float32)
        if self.bias is not None:
            logits = logits + self.bias.astype(jnp.float32)
        return cap(logits, self.softcap)


def cap(logits: jax.Array, softcap: float | None) -> jax.Array:
    """c * tanh(logits / c), or the logits themselves for None."""
    return logits if softcap is None else softcap * jnp.tanh(logits / softcap)


def head(model, params: dict) -> Head:
    """The output layer's weights.

    Args:
        model: a language model of this package.
        params: its parameters.

    Returns:
        The head; of a tied model the kernel is the transposed embedding.
    """
    if not model.config.tied:
        return Head(params["lm_head"]["kernel"], None, model.config.final_softcap)
    embedding = functools.reduce(lambda tree, name: tree[name], model.embedding_path, params)
    return Head(embedding.T, None, model.config.final_softcap)
