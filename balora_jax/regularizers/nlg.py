"""The regularizers of a language model: consistency, diversity and SVD over the valid tokens of a batch.

All take whole logits [..., V] and mask [...], True where the position predicts a counted token. They compute
in float32, return a float32 scalar to be minimized, and are 0 with zero gradient when nothing is counted.
"""

from dataclasses import dataclass
from typing import Literal

import chex
import jax
import jax.numpy as jnp

from balora_jax.linalg.leading import Method
from balora_jax.linalg.singular_values import frobenius_norm, ratio, singular_values


def masked_mean(values: jax.Array, mask: jax.Array) -> jax.Array:
    """The mean over the counted positions, 0 if there are none.

    Args:
      values: [...], float32.
      mask: [...], True where counted.

    Returns:
      [], float32.
    """
    chex.assert_equal_shape([values, mask])
    return jnp.sum(jnp.where(mask, values, 0.0)) / jnp.maximum(jnp.sum(mask), 1)


def counted_logits(logits: jax.Array, mask: jax.Array) -> jax.Array:
    """Logits in float32, with 0 (and no gradient, whatever was there) at positions that are not counted."""
    chex.assert_equal_shape_prefix([logits, mask], mask.ndim)
    chex.assert_rank(logits, mask.ndim + 1)
    return jnp.where(mask[..., None], logits.astype(jnp.float32), 0.0)


def divergence(logits: jax.Array, teacher_logits: jax.Array, temperature: float) -> jax.Array:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)) along the last axis.

    Args:
      logits: [..., V], float32.
      teacher_logits: [..., V], float32; no gradient goes into it.
      temperature: T.

    Returns:
      [...], float32.
    """
    teacher = jax.nn.log_softmax(jax.lax.stop_gradient(teacher_logits) / temperature)
    student = jax.nn.log_softmax(logits / temperature)
    p, q = jnp.exp(teacher), jnp.exp(student)
    # sum(q - p) is 0; with it every summand is at least 0, so that rounding cannot hide a small divergence.
    return temperature**2 * jnp.sum(p * (teacher - student) + (q - p), axis=-1)


def entropy(logits: jax.Array, top_k: int | None = None) -> jax.Array:
    """Entropy, in nats, of the softmax over each position's top_k logits.

    Args:
      logits: [..., V], float32.
      top_k: how many of the largest logits count; None for all.

    Returns:
      [...], float32.
    """
    if top_k is not None and top_k < logits.shape[-1]:
        # Taken whole: slicing what top_k returns makes XLA's CPU backend sort the whole vocabulary.
        logits, _ = jax.lax.top_k(logits, top_k)
    log_probability = jax.nn.log_softmax(logits)
    return -jnp.sum(jnp.exp(log_probability) * log_probability, axis=-1)


def consistency(
    logits: jax.Array, teacher_logits: jax.Array, mask: jax.Array, *, temperature: float
) -> jax.Array:
    """Stay near the pre-trained model: T^2 KL(softmax(Z_P / T) || softmax(Z_F / T)), mean over valid tokens.

    BA-LoRA's L_CR for NLG: T = 2 in the ICLR 2026 version, T = 1 in the 2024 one.

    Args:
      logits: [..., V], the student's Z_F.
      teacher_logits: [..., V], the pre-trained model's Z_P; gets no gradient.
      mask: [...], True where counted.
      temperature: T, above 0.

    Returns:
      [], float32, at least 0 up to rounding.

    Raises:
      AssertionError: when shapes do not fit.
    """
    chex.assert_equal_shape([logits, teacher_logits])
    student, teacher = counted_logits(logits, mask), counted_logits(teacher_logits, mask)
    return masked_mean(divergence(student, teacher, temperature), mask)


def diversity(logits: jax.Array, mask: jax.Array, *, top_k: int | None) -> jax.Array:
    """Keep outputs spread out: minus the mean entropy of the softmax over each token's top_k logits.

    BA-LoRA's L_DR for NLG: top_k = 20 in the ICLR 2026 version, the whole vocabulary in the 2024 one.

    Args:
      logits: [..., V].
      mask: [...], True where counted.
      top_k: how many of the largest logits count, renormalized; None (or V and more) for all.

    Returns:
      [], float32, from -log(min(top_k, V)) to 0.

    Raises:
      AssertionError: when shapes do not fit.
    """
    return -masked_mean(entropy(counted_logits(logits, mask), top_k), mask)


def svd(
    logits: jax.Array,
    mask: jax.Array,
    *,
    k: int,
    norm: Literal["frobenius", "nuclear"] = "frobenius",
    groups: int = 1,
) -> jax.Array:
    """Concentrate the logits on their leading directions: minus the k largest singular values over a norm.

    BA-LoRA's L_SVDR for NLG, on the matrix of all valid tokens: - sum_{i<=k} s_i / |Z|_F in the ICLR 2026
    version (k = 10), - sum_{i<=k} s_i / sum_j s_j in the 2024 one (k = 3). A full decomposition of
    [tokens, V]: the definition, for tests and notebooks; `streaming` computes the same from hidden states.

    Args:
      logits: [..., V].
      mask: [...], True where counted.
      k: how many singular values lead.
      norm: what their sum is divided by.
      groups: the term is the mean over so many equal parts of the batch, each with its own matrix. 1: the whole
        batch given, however many devices hold it; the number of devices: the official code's per-device reading.

    Returns:
      [], float32; from -sqrt(k) (frobenius) or -1 (nuclear) to 0.

    Raises:
      AssertionError: when shapes do not fit.
    """
    chex.assert_is_divisible(mask.size, groups)
    matrices = counted_logits(logits, mask).reshape(groups, -1, logits.shape[-1])
    return jnp.mean(jax.vmap(lambda matrix: _leading_share(matrix, k, norm))(matrices))


def _leading_share(matrix: jax.Array, k: int, norm: str) -> jax.Array:
    values = singular_values(matrix)
    whole = frobenius_norm(matrix) if norm == "frobenius" else jnp.sum(values)
    return -ratio(jnp.sum(values[:k]), whole)


@dataclass(frozen=True)
class Divergence:
    """T^2 KL(softmax(Z_P / T) || softmax(Z_F / T)) of each token.

    Attributes:
      temperature: T.
    """

    temperature: float

    def __call__(
        self, logits: jax.Array, teacher_logits: jax.Array, targets: jax.Array
    ) -> jax.Array:
        """Compute [...] from logits [..., V]; the targets are not read."""
        return divergence(logits, teacher_logits, self.temperature)


@dataclass(frozen=True)
class NegativeEntropy:
    """Minus the entropy of the softmax over each token's largest logits.

    Attributes:
      top_k: how many of the largest logits count; None for all.
    """

    top_k: int | None

    def __call__(
        self, logits: jax.Array, teacher_logits: jax.Array | None, targets: jax.Array
    ) -> jax.Array:
        """Compute [...] from logits [..., V]; teacher and targets are not read."""
        return -entropy(logits, self.top_k)


@dataclass(frozen=True)
class LeadingShare:
    """Minus the k largest singular values of the counted tokens' logits over a norm.

    Attributes:
      k: how many singular values lead.
      norm: frobenius or nuclear.
      method: how the streamed objective finds them (`linalg.leading`).
      groups: equal parts of the batch with a term of their own, which is averaged.
    """

    k: int
    norm: str
    method: Method
    groups: int

    def __call__(self, logits: jax.Array, mask: jax.Array) -> jax.Array:
        """Compute [] from logits [..., V] by a full decomposition."""
        return svd(logits, mask, k=self.k, norm=self.norm, groups=self.groups)
