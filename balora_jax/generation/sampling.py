"""The choice of the next token: the likeliest, or a random draw."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Sampling(NamedTuple):
    """The arguments of a choice; a pytree of a jitted call.

    Attributes:
      key: a random key; None takes the likeliest token.
      temperature: the divisor of the logits.
      top_p: the share of the probability that tokens are drawn from; None for all of it.
      top_k: the number of likeliest tokens that are drawn from; None for all of them.
      penalty: the divisor of positive logits of tokens that are in the text, and the factor of
        negative ones; None for none.
    """

    key: jax.Array | None
    temperature: float | jax.Array
    top_p: float | jax.Array | None
    top_k: int | jax.Array | None = None
    penalty: float | jax.Array | None = None


def make_sampling(
    temperature: float,
    top_p: float,
    key: jax.Array | None,
    top_k: int | None = None,
    penalty: float = 1.0,
) -> Sampling:
    """Make the sampling of a temperature and a share.

    Args:
      temperature: 0 takes the likeliest token.
      top_p: the share of the probability to draw from; 1 or more for all of it.
      key: a random key; needed unless the temperature is 0.
      top_k: the number of likeliest tokens to draw from; None for all of them.
      penalty: of repetitions; 1 for none.

    Raises:
      ValueError: drawing without a key.
    """
    factor = None if penalty == 1 else penalty
    if temperature == 0:
        return Sampling(key=None, temperature=1.0, top_p=None, penalty=factor)
    if key is None:
        raise ValueError(f"temperature is {temperature}, which needs a random key")
    return Sampling(key, temperature, None if top_p >= 1 else top_p, top_k, factor)


def choose(
    logits: jax.Array, sampling: Sampling, step: jax.Array, seen: jax.Array | None = None
) -> jax.Array:
    """Choose the next token of every row.

    Args:
      logits: float32 [batch, V].
      sampling: the choice to make.
      step: number of the token in the text; each step draws with its own key.
      seen: bool [batch, V], the tokens of the text so far; needed where repetitions are penalized.

    Returns:
      int32 [batch].
    """
    if sampling.penalty is not None:
        # Keskar et al., arXiv 1909.05858, section 4.1; of logits of either sign, as transformers.
        penalized = jnp.where(logits > 0, logits / sampling.penalty, logits * sampling.penalty)
        logits = jnp.where(seen, penalized, logits)
    if sampling.key is None:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    logits = logits / sampling.temperature
    if sampling.top_k is not None:
        logits = _likeliest(logits, sampling.top_k)
    if sampling.top_p is not None:
        logits = _nucleus(logits, sampling.top_p)
    key = jax.random.fold_in(sampling.key, step)
    return jax.random.categorical(key, logits).astype(jnp.int32)


def _likeliest(logits: jax.Array, top_k: jax.Array) -> jax.Array:
    """Keep the `top_k` likeliest tokens, and those as likely as the last of them; -inf elsewhere.

    Fan et al., arXiv 1805.04833, section 5.4.
    """
    ordered = jnp.sort(logits, axis=-1, descending=True)
    last = jnp.minimum(top_k, logits.shape[-1]) - 1
    least = jnp.take(ordered, last, axis=-1)[:, None]
    return jnp.where(logits < least, -jnp.inf, logits)


def _nucleus(logits: jax.Array, top_p: jax.Array) -> jax.Array:
    """Keep the smallest set of likeliest tokens with probability `top_p`; -inf elsewhere.

    Nucleus sampling (Holtzman et al., arXiv 1904.09751), section 3.1. The likeliest token always
    stays.
    """
    # The probability of each token, from the likeliest on.
    ordered = jnp.sort(logits, axis=-1, descending=True)
    shares = jax.nn.softmax(ordered, axis=-1)

    # A token is kept if those before it do not make up top_p yet.
    kept = jnp.cumsum(shares, axis=-1) - shares < top_p

    # The logit of the least likely token kept is the threshold.
    least = jnp.min(jnp.where(kept, ordered, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(logits < least, -jnp.inf, logits)
