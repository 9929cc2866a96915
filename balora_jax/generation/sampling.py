"""How the next token is chosen: the likeliest, or one drawn."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Sampling(NamedTuple):
    """How a token is chosen; the arrays of a jitted call.

    Attributes:
        key: a random key, or None to take the likeliest token.
        temperature: what logits are divided by.
        top_p: the share of probability that tokens are drawn from (Holtzman et al., 1904.09751), or None for all.
    """

    key: jax.Array | None
    temperature: float | jax.Array
    top_p: float | jax.Array | None


def make_sampling(temperature: float, top_p: float, key: jax.Array | None) -> Sampling:
    """How tokens are chosen at a temperature (0: the likeliest) from the likeliest that make up a share.

    Raises:
        ValueError: drawing without a key.
    """
    if temperature == 0:
        return Sampling(None, 1.0, None)
    if key is None:
        raise ValueError(f"temperature is {temperature}, which needs a random key")
    return Sampling(key, temperature, None if top_p >= 1 else top_p)


def choose(logits: jax.Array, sampling: Sampling, step: jax.Array) -> jax.Array:
    """The tokens at a step of the text.

    Args:
        logits: [batch, V] float32.
        sampling: how.
        step: each step draws from its own key.

    Returns:
        [batch] int32.
    """
    if sampling.key is None:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    logits = logits / sampling.temperature
    if sampling.top_p is not None:
        logits = _nucleus(logits, sampling.top_p)
    return jax.random.categorical(jax.random.fold_in(sampling.key, step), logits).astype(jnp.int32)


def _nucleus(logits: jax.Array, top_p: jax.Array) -> jax.Array:
    """-inf below the least likely token of the smallest set that makes up top_p; the likeliest always stays."""
    ordered = jnp.sort(logits, axis=-1, descending=True)
    shares = jax.nn.softmax(ordered, axis=-1)
    kept = jnp.cumsum(shares, axis=-1) - shares < top_p
    least = jnp.min(jnp.where(kept, ordered, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(logits < least, -jnp.inf, logits)
