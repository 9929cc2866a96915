"""The output layer as data, for losses computed from hidden states without all the logits."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct


@struct.dataclass
class Head:
    """The weights that map hidden states to logits.

    Attributes:
      kernel: [d, V].
      bias: [V], or None.
      softcap: c of c * tanh(logits / c) (Gemma 2), or None; static.
    """

    kernel: jax.Array
    bias: jax.Array | None = None
    softcap: float | None = struct.field(pytree_node=False, default=None)

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Compute the model's logits.

        Args:
          hidden: [..., d], as the model's `hidden_states` returns them.

        Returns:
          [..., V] float32; the operands of the product are of the element type of `hidden`.
        """
        kernel = self.kernel.astype(hidden.dtype)
        logits = jnp.matmul(hidden, kernel, preferred_element_type=jnp.float32)
        if self.bias is not None:
            logits = logits + self.bias.astype(jnp.float32)
        return cap(logits, self.softcap)


def cap(logits: jax.Array, softcap: float | None) -> jax.Array:
    """Compute c * tanh(logits / c) (Gemma 2, arXiv 2408.00118, section 2).

    Args:
      logits: any shape.
      softcap: c, or None for no cap.

    Returns:
      An array of the same shape.
    """
    if softcap is None:
        return logits
    return softcap * jnp.tanh(logits / softcap)


def untied(model):
    """Return a language model whose head has weights of its own.

    Args:
      model: a language model of this package.
    """
    return model.clone(config=dataclasses.replace(model.config, tied=False))


def head(model, params: dict) -> Head:
    """Collect the output layer's weights.

    Args:
      model: a language model of this package.
      params: its parameters.

    Returns:
      The head; the kernel of a tied model is the transposed embedding.
    """
    softcap = model.config.final_softcap
    if not model.config.tied:
        return Head(params["lm_head"]["kernel"], None, softcap)
    return Head(embedding_of(model, params).T, None, softcap)


def embedding_of(model, params: dict) -> jax.Array:
    """Look up the table of the token embedding, [V, d].

    Args:
      model: a language model of this package.
      params: its parameters.
    """
    table = params
    for name in model.embedding_path:
        table = table[name]
    return table
