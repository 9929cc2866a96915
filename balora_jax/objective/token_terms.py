"""The terms of a chunk of tokens from its logits, with gradients written out.

`plain` and `regularizers` define the same terms. Here the cross-entropy, the divergence from the
teacher and the entropy share their exponentials, so that each is computed once. Their gradients are
computed while the logits are still in memory. All other terms are differentiated by jax.

Notation: z the student's logits, p the teacher's probabilities and q the student's at temperature
T, H an entropy.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from balora_jax.regularizers.nlg import Divergence, NegativeEntropy
from balora_jax.regularizers.terms import Terms

Rows = dict[str, jax.Array]
FindLargest = Callable[[jax.Array, int], tuple[jax.Array, jax.Array]]
# The number of logits in each group of the search for the largest logits.
GROUP = 64


def largest(logits: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """Find the k largest logits and the largest one.

    The k largest logits are in the k groups with the largest maxima. So one pass finds the maxima,
    and a second one searches k * GROUP candidates. This is ten times as fast as top_k over a whole
    vocabulary. Group j holds every (V // GROUP)-th logit, which lets the maxima be computed on
    whole vectors.

    Args:
      logits: [..., V], float32.
      k: at most V.

    Returns:
      The k largest values [..., k], in any order, and the maximum [..., 1].
    """
    *leading, vocabulary = logits.shape
    if k * GROUP * 2 > vocabulary:
        values, _ = jax.lax.top_k(logits, k)
        return values, jnp.max(logits, axis=-1, keepdims=True)

    groups = vocabulary // GROUP
    grouped = logits[..., : groups * GROUP].reshape(*leading, GROUP, groups)
    rest = logits[..., groups * GROUP :]
    maxima = jnp.max(grouped, axis=-2)
    _, chosen = jax.lax.top_k(maxima, k)

    candidates = jnp.take_along_axis(grouped, chosen[..., None, :], axis=-1)
    candidates = candidates.reshape(*leading, GROUP * k)
    candidates = jnp.concatenate([candidates, rest], axis=-1)
    maximum = jnp.max(jnp.concatenate([maxima, rest], axis=-1), axis=-1, keepdims=True)
    values, _ = jax.lax.top_k(candidates, k)
    return values, maximum


def largest_on(
    mesh: Mesh,
    logits: jax.Array,
    k: int,
    token_axes: tuple[str, ...],
    head_axes: tuple[str, ...],
) -> tuple[jax.Array, jax.Array]:
    """Find the k largest logits of a sharded vocabulary; each shard sends its k largest.

    Args:
      mesh: the devices.
      logits: [shards, tokens, V].
      k: at most V.
      token_axes: the mesh axes that the first dimension is divided over.
      head_axes: the mesh axes that V is divided over.

    Returns:
      The k largest values and the maximum, as `largest`.
    """

    def largest_here(part: jax.Array) -> tuple[jax.Array, jax.Array]:
        values, maximum = largest(part, min(k, part.shape[-1]))
        if not head_axes:
            return values, maximum
        gathered = jax.lax.all_gather(values, head_axes, axis=2, tiled=True)
        values, _ = jax.lax.top_k(gathered, k)
        return values, jax.lax.pmax(maximum, head_axes)

    spec = P(token_axes, None, head_axes or None)
    largest_overall = jax.shard_map(
        largest_here, mesh=mesh, in_specs=spec, out_specs=(P(token_axes),) * 2, check_vma=False
    )
    return largest_overall(logits)


def softmax_entropy(logits: jax.Array) -> jax.Array:
    """Compute the entropy of the softmax of logits.

    Args:
      logits: [..., V], float32.

    Returns:
      [...], float32, in nats.
    """
    shifted = logits - jnp.max(logits, axis=-1, keepdims=True)
    exponentials = jnp.exp(shifted)
    total = jnp.sum(exponentials, axis=-1)
    return jnp.log(total) - jnp.sum(exponentials * shifted, axis=-1) / total


def _named(terms: Terms, function_type: type) -> str | None:
    """The name of the first term whose function has a type; None if there is none."""
    return next(
        (name for name, term in terms.items() if isinstance(term.function, function_type)), None
    )


def token_terms(
    logits: jax.Array,
    teacher_logits: jax.Array | None,
    targets: jax.Array,
    terms: Terms,
    find_largest: FindLargest = largest,
) -> tuple[Rows, Callable[[Rows], jax.Array]]:
    """Compute the cross-entropy and the terms of each token.

    Args:
      logits: [..., V], float32.
      teacher_logits: [..., V], float32; None if no term reads it.
      targets: int [...].
      terms: the terms per token; terms per batch are not computed here.
      find_largest: `largest`, or a function that does the same on a sharded vocabulary.

    Returns:
      The values [...] by name, with the cross-entropy as `task`; and a function that takes a scale
      [...] for each value and returns d(sum of scale * value) / d logits, [..., V].
    """
    vocabulary = logits.shape[-1]
    divergence = _named(terms, Divergence)
    entropy = _named(terms, NegativeEntropy)
    others = [name for name in terms if name not in (divergence, entropy)]
    temperature = terms[divergence].function.temperature if divergence else 1.0
    top_k = terms[entropy].function.top_k if entropy else None
    restricted = top_k is not None and top_k < vocabulary

    if restricted:
        top, maximum = find_largest(logits, top_k)
    else:
        maximum = jnp.max(logits, axis=-1, keepdims=True)

    # q = softmax(z / T) and its logarithm.
    exponentials = jnp.exp((logits - maximum) / temperature)
    total_at_t = jnp.sum(exponentials, axis=-1, keepdims=True)
    log_q = (logits - maximum) / temperature - jnp.log(total_at_t)

    # softmax(z).
    if temperature == 2:
        # At the paper's temperature exp(z) is exp(z / 2) squared, and needs no exponential.
        total = jnp.sum(jnp.square(exponentials), axis=-1, keepdims=True)
        probability = jnp.square(jnp.exp(log_q)) * (jnp.square(total_at_t) / total)
    else:
        total = jnp.sum(jnp.exp(logits - maximum), axis=-1, keepdims=True)
        probability = jnp.exp(logits - maximum - jnp.log(total))
    log_total = maximum + jnp.log(total)

    # The cross-entropy: log sum exp(z) - z[target].
    target_logits = jnp.take_along_axis(logits, targets[..., None], axis=-1)
    values = {"task": (log_total - target_logits)[..., 0]}

    # T^2 KL(p || q).
    if divergence:
        teacher_maximum = jnp.max(teacher_logits, axis=-1, keepdims=True)
        teacher_scaled = (teacher_logits - teacher_maximum) / temperature
        log_p = teacher_scaled - jnp.log(jnp.sum(jnp.exp(teacher_scaled), axis=-1, keepdims=True))
        p = jnp.exp(log_p)
        q = jnp.exp(log_q)
        # sum(q - p) is 0. With it every summand is at least 0, so that rounding cannot hide a small
        # divergence.
        values[divergence] = temperature**2 * jnp.sum(p * (log_p - log_q) + (q - p), axis=-1)

    # -H of the softmax over the largest logits, or over all.
    if restricted:
        log_top = jax.nn.logsumexp(top, axis=-1, keepdims=True)
        h = -jnp.sum(jnp.exp(top - log_top) * (top - log_top), axis=-1, keepdims=True)
        values[entropy] = -h[..., 0]
        least = jnp.min(top, axis=-1, keepdims=True)
        # If more logits are equal to the smallest of the top k than the top k has places for, the
        # gradient is divided equally among them. The full gradient for all of them would not be
        # the gradient of any function.
        places = jnp.sum(top == least, axis=-1, keepdims=True)
        tied_share = places / jnp.sum(logits == least, axis=-1, keepdims=True)
    elif entropy:
        log_top = log_total
        h = jnp.log(total) - jnp.sum(probability * (logits - maximum), axis=-1, keepdims=True)
        values[entropy] = -h[..., 0]
        least = -math.inf
        tied_share = 1.0

    # All other terms, by automatic differentiation.
    pullbacks = {}
    for name in others:
        values[name], pullbacks[name] = _differentiated(
            terms, name, logits, teacher_logits, targets
        )

    def gradient(scales: Rows) -> jax.Array:
        scales = {name: rows[..., None] for name, rows in scales.items()}
        factor = scales["task"]
        if entropy:
            spread = scales[entropy] * jnp.exp(log_total - log_top)
            among_top = jnp.where(logits > least, 1.0, jnp.where(logits == least, tied_share, 0.0))
            factor = factor + among_top * spread * (logits - (log_top - h))
        slope = probability * factor
        if divergence:
            slope = slope + (temperature * scales[divergence]) * (q - p)
        for name in others:
            slope = slope + pullbacks[name](scales[name][..., 0])[0]
        is_target = jnp.arange(vocabulary) == targets[..., None]
        return slope - jnp.where(is_target, scales["task"], 0.0)

    return values, gradient


def _differentiated(
    terms: Terms,
    name: str,
    logits: jax.Array,
    teacher_logits: jax.Array | None,
    targets: jax.Array,
) -> tuple[jax.Array, Callable]:
    """The value [...] of a term and its pullback: a scale [...] -> ([..., V],)."""
    term = terms[name]
    teacher = teacher_logits if term.needs_teacher else None

    def value_of(logits: jax.Array) -> jax.Array:
        return term.function(logits, teacher, targets).astype(jnp.float32)

    return jax.vjp(value_of, logits)
