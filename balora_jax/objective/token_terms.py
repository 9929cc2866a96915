"""The terms of a block of tokens from its logits, and their gradient written out: few passes over [..., V].

`objective` and `regularizers.nlg` define the same terms; derivatives are taken by hand here so that each
exponential is computed once and the gradient is ready for the head while the logits are still at hand.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from balora_jax.config import RegularizersConfig

Rows = dict[str, jax.Array]
# Logits are searched in V / GROUP groups of so many.
GROUP = 64


def largest(logits: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """The k largest logits and the largest one.

    The k largest lie in the k groups whose maxima are largest: one pass for the maxima, then a search among
    k * GROUP candidates, an order faster than top_k over a whole vocabulary. Group j holds every (V // GROUP)-th
    logit, so that the maxima are taken over whole vectors.

    Args:
      logits: [..., V], float32.
      k: at most V.

    Returns:
      (values [..., k] in any order, maximum [..., 1]).
    """
    groups = logits.shape[-1] // GROUP
    if k * GROUP * 2 > logits.shape[-1]:
        return jax.lax.top_k(logits, k)[0], jnp.max(logits, axis=-1, keepdims=True)
    whole = groups * GROUP
    grouped = logits[..., :whole].reshape(*logits.shape[:-1], GROUP, groups)
    maxima = jnp.max(grouped, axis=-2)
    _, chosen = jax.lax.top_k(maxima, k)
    candidates = jnp.take_along_axis(grouped, chosen[..., None, :], axis=-1)
    rest = logits[..., whole:]
    candidates = jnp.concatenate([candidates.reshape(*logits.shape[:-1], GROUP * k), rest], axis=-1)
    peak = jnp.max(jnp.concatenate([maxima, rest], axis=-1), axis=-1, keepdims=True)
    return jax.lax.top_k(candidates, k)[0], peak


def largest_on(
    mesh: Mesh, logits: jax.Array, k: int, token_axes: tuple[str, ...], head_axes: tuple[str, ...]
) -> tuple[jax.Array, jax.Array]:
    """`largest` over a divided vocabulary: each part sends its own k largest.

    Args:
      mesh: of the devices.
      logits: [shards, tokens, V].
      k: at most V.
      token_axes: what the shards are divided over.
      head_axes: what V is divided over.

    Returns:
      As `largest`.
    """

    def here(own: jax.Array) -> tuple[jax.Array, jax.Array]:
        top, peak = largest(own, min(k, own.shape[-1]))
        if not head_axes:
            return top, peak
        top = jax.lax.all_gather(top, head_axes, axis=2, tiled=True)
        return jax.lax.top_k(top, k)[0], jax.lax.pmax(peak, head_axes)

    spec = P(token_axes, None, head_axes or None)
    return jax.shard_map(
        here, mesh=mesh, in_specs=spec, out_specs=(P(token_axes),) * 2, check_vma=False
    )(logits)


def softmax_entropy(logits: jax.Array) -> jax.Array:
    """[..., V] -> [...]: the entropy of the softmax, in one pass after the maximum's."""
    shifted = logits - jnp.max(logits, axis=-1, keepdims=True)
    raised = jnp.exp(shifted)
    total = jnp.sum(raised, axis=-1)
    return jnp.log(total) - jnp.sum(raised * shifted, axis=-1) / total


def token_terms(
    logits: jax.Array,
    teacher_logits: jax.Array | None,
    targets: jax.Array,
    terms: RegularizersConfig,
    find_largest: Callable[[jax.Array, int], tuple[jax.Array, jax.Array]] = largest,
) -> tuple[Rows, Callable[[Rows], jax.Array]]:
    """Each token's terms, and their weighted gradient.

    Args:
      logits: [..., V], float32.
      teacher_logits: [..., V], float32, or None when consistency does not act.
      targets: [...].
      terms: the regularizers; the SVD term is none of a token's and is not here.
      find_largest: `largest`, or the same over a sharded vocabulary.

    Returns:
      (values, gradient): values {task, consistency, diversity: [...]}, those that act; gradient takes a scale [...]
      for each of them and gives d(sum of scale * value) / d logits, [..., V].
    """
    top_k, vocabulary = terms.diversity.top_k, logits.shape[-1]
    few = terms.diversity.weight > 0 and top_k is not None and top_k < vocabulary
    if few:
        top, peak = find_largest(logits, top_k)
    else:
        peak = jnp.max(logits, axis=-1, keepdims=True)
    temperature = terms.consistency.temperature if terms.consistency.weight > 0 else 1.0
    softened = jnp.exp((logits - peak) / temperature)
    softened_total = jnp.sum(softened, axis=-1, keepdims=True)
    log_softened = (logits - peak) / temperature - jnp.log(softened_total)
    if temperature == 2:
        # The paper's temperature: the plain softmax is the softened one squared, and needs no exponential.
        total = jnp.sum(jnp.square(softened), axis=-1, keepdims=True)
        probability = jnp.square(jnp.exp(log_softened)) * (jnp.square(softened_total) / total)
    else:
        total = jnp.sum(jnp.exp(logits - peak), axis=-1, keepdims=True)
        probability = jnp.exp(logits - peak - jnp.log(total))
    log_total = peak + jnp.log(total)
    aimed = jnp.take_along_axis(logits, targets[..., None], axis=-1)
    values = {"task": (log_total - aimed)[..., 0]}
    if terms.consistency.weight > 0:
        teacher_peak = jnp.max(teacher_logits, axis=-1, keepdims=True)
        teacher_scaled = (teacher_logits - teacher_peak) / temperature
        teacher_log = teacher_scaled - jnp.log(
            jnp.sum(jnp.exp(teacher_scaled), axis=-1, keepdims=True)
        )
        p, q = jnp.exp(teacher_log), jnp.exp(log_softened)
        # sum(q - p) is 0; with it every summand is at least 0, so that rounding cannot hide a small divergence.
        values["consistency"] = temperature**2 * jnp.sum(
            p * (teacher_log - log_softened) + (q - p), axis=-1
        )
    if few:
        log_top = jax.nn.logsumexp(top, axis=-1, keepdims=True)
        entropy = -jnp.sum(jnp.exp(top - log_top) * (top - log_top), axis=-1, keepdims=True)
        least = jnp.min(top, axis=-1, keepdims=True)
        # Where more logits tie for the last places than there are, each has its share of them, and none is
        # preferred; all of them in full would be a gradient of no function.
        tied = jnp.sum(top == least, axis=-1, keepdims=True) / jnp.sum(
            logits == least, axis=-1, keepdims=True
        )
        values["diversity"] = -entropy[..., 0]
    elif terms.diversity.weight > 0:
        log_top, least, tied = log_total, -math.inf, 1.0
        entropy = jnp.log(total) - jnp.sum(probability * (logits - peak), axis=-1, keepdims=True)
        values["diversity"] = -entropy[..., 0]

    def gradient(scale: Rows) -> jax.Array:
        scale = {name: rows[..., None] for name, rows in scale.items()}
        factor = scale["task"]
        if "diversity" in values:
            spread = scale["diversity"] * jnp.exp(log_total - log_top)
            counted = jnp.where(logits > least, 1.0, jnp.where(logits == least, tied, 0.0))
            factor = factor + counted * spread * (logits - (log_top - entropy))
        slope = probability * factor
        if "consistency" in values:
            slope = slope + (temperature * scale["consistency"]) * (q - p)
        hit = jnp.arange(vocabulary) == targets[..., None]
        return slope - jnp.where(hit, scale["task"], 0.0)

    return values, gradient
