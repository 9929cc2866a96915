"""The regularizers of a language model: consistency, diversity and SVD over the counted tokens.

All read whole logits [..., V] and a mask [...], True where the position predicts a counted token.
They compute in float32 and return a float32 scalar to be minimized. Without counted tokens the
value and the gradient are 0.
"""

from dataclasses import dataclass
from typing import Literal

import chex
import jax
import jax.numpy as jnp

from balora_jax.linalg.leading import Method
from balora_jax.linalg.singular_values import frobenius_norm, ratio, singular_values


def masked_mean(values: jax.Array, mask: jax.Array) -> jax.Array:
    """Compute the mean over the counted positions; 0 if there are none.

    Args:
      values: [...], float32.
      mask: bool [...], True where counted.

    Returns:
      [], float32.
    """
    chex.assert_equal_shape([values, mask])
    return jnp.sum(jnp.where(mask, values, 0.0)) / jnp.maximum(jnp.sum(mask), 1)


def counted_logits(logits: jax.Array, mask: jax.Array) -> jax.Array:
    """Cast logits to float32, and set them to 0, without gradient, where they are not counted.

    Args:
      logits: [..., V]; any values, even NaN, where mask is False.
      mask: bool [...], True where counted.

    Returns:
      [..., V], float32.
    """
    chex.assert_equal_shape_prefix([logits, mask], mask.ndim)
    chex.assert_rank(logits, mask.ndim + 1)
    return jnp.where(mask[..., None], logits.astype(jnp.float32), 0.0)


def divergence(logits: jax.Array, teacher_logits: jax.Array, temperature: float) -> jax.Array:
    """Compute T^2 KL(softmax(Z_P / T) || softmax(Z_F / T)) along the last axis.

    Args:
      logits: [..., V], float32, the student's Z_F.
      teacher_logits: [..., V], float32, the teacher's Z_P; gets no gradient.
      temperature: T.

    Returns:
      [...], float32.
    """
    teacher = jax.nn.log_softmax(jax.lax.stop_gradient(teacher_logits) / temperature)
    student = jax.nn.log_softmax(logits / temperature)
    p = jnp.exp(teacher)
    q = jnp.exp(student)
    # sum(q - p) is 0. With it every summand is at least 0, so that rounding cannot hide a small
    # divergence.
    return temperature**2 * jnp.sum(p * (teacher - student) + (q - p), axis=-1)


def entropy(logits: jax.Array, top_k: int | None = None) -> jax.Array:
    """Compute the entropy of the softmax over the top_k logits of each position.

    Args:
      logits: [..., V], float32.
      top_k: the number of largest logits in the softmax; None for all.

    Returns:
      [...], float32, in nats.
    """
    if top_k is not None and top_k < logits.shape[-1]:
        # Not sliced: XLA's CPU backend sorts the whole vocabulary if the result of top_k is sliced.
        logits, _ = jax.lax.top_k(logits, top_k)
    log_probability = jax.nn.log_softmax(logits)
    return -jnp.sum(jnp.exp(log_probability) * log_probability, axis=-1)


def consistency(
    logits: jax.Array, teacher_logits: jax.Array, mask: jax.Array, *, temperature: float
) -> jax.Array:
    """Compute the consistency term, which keeps the student near the pre-trained model.

    L_CR of BA-LoRA for NLG (arXiv 2408.04556), the mean over the counted tokens of

        T^2 KL(softmax(Z_P / T) || softmax(Z_F / T)).

    T = 2 in the ICLR 2026 version, T = 1 in the 2024 version.

    Args:
      logits: [..., V], the student's Z_F.
      teacher_logits: [..., V], the pre-trained model's Z_P; gets no gradient.
      mask: bool [...], True where counted.
      temperature: T, above 0.

    Returns:
      [], float32, at least 0 up to rounding.

    Raises:
      AssertionError: the shapes do not fit.
    """
    chex.assert_equal_shape([logits, teacher_logits])
    student = counted_logits(logits, mask)
    teacher = counted_logits(teacher_logits, mask)
    return masked_mean(divergence(student, teacher, temperature), mask)


def diversity(logits: jax.Array, mask: jax.Array, *, top_k: int | None) -> jax.Array:
    """Compute the diversity term, which keeps the predicted distributions spread out.

    L_DR of BA-LoRA for NLG (arXiv 2408.04556): minus the mean over the counted tokens of the
    entropy of the softmax over each token's top_k logits. top_k = 20 in the ICLR 2026 version, the
    whole vocabulary in the 2024 version.

    Args:
      logits: [..., V].
      mask: bool [...], True where counted.
      top_k: the number of largest logits in the softmax; None (or V and more) for all.

    Returns:
      [], float32, from -log(min(top_k, V)) to 0.

    Raises:
      AssertionError: the shapes do not fit.
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
    """Compute the SVD term, which concentrates the logits on their leading singular directions.

    L_SVDR of BA-LoRA for NLG (arXiv 2408.04556), on the matrix Z of the logits of all counted
    tokens, with singular values s:

        - sum_{i<=k} s_i / |Z|_F          in the ICLR 2026 version, k = 10
        - sum_{i<=k} s_i / sum_j s_j      in the 2024 version, k = 3

    This is the definition, by a full decomposition of [tokens, V]. `objective.spectrum` computes
    the same from hidden states.

    Args:
      logits: [..., V].
      mask: bool [...], True where counted.
      k: the number of leading singular values.
      norm: the denominator: frobenius (2026) or nuclear (2024).
      groups: the number of equal parts of the batch, each with a matrix of its own, over whose
        terms the result is the mean. With 1 the term does not depend on the number of devices;
        with the number of devices it is the term of the official code, one matrix a device.

    Returns:
      [], float32; from -sqrt(k) (frobenius) or -1 (nuclear) to 0.

    Raises:
      AssertionError: the shapes do not fit.
    """
    chex.assert_is_divisible(mask.size, groups)
    matrices = counted_logits(logits, mask).reshape(groups, -1, logits.shape[-1])
    return jnp.mean(jax.vmap(lambda matrix: _leading_share(matrix, k, norm))(matrices))


def _leading_share(matrix: jax.Array, k: int, norm: str) -> jax.Array:
    values = singular_values(matrix)
    denominator = frobenius_norm(matrix) if norm == "frobenius" else jnp.sum(values)
    return -ratio(jnp.sum(values[:k]), denominator)


@dataclass(frozen=True)
class Divergence:
    """The consistency term of each token: T^2 KL(softmax(Z_P / T) || softmax(Z_F / T)).

    Attributes:
      temperature: T.
    """

    temperature: float

    def __call__(
        self, logits: jax.Array, teacher_logits: jax.Array, targets: jax.Array
    ) -> jax.Array:
        """Compute the term [...] of every token from logits [..., V]; targets are not read."""
        return divergence(logits, teacher_logits, self.temperature)


@dataclass(frozen=True)
class NegativeEntropy:
    """The diversity term of each token: minus the entropy of the softmax over its largest logits.

    Attributes:
      top_k: the number of largest logits in the softmax; None for all.
    """

    top_k: int | None

    def __call__(
        self, logits: jax.Array, teacher_logits: jax.Array | None, targets: jax.Array
    ) -> jax.Array:
        """Compute the term [...] of every token from logits [..., V], which alone are read."""
        return -entropy(logits, self.top_k)


@dataclass(frozen=True)
class LeadingShare:
    """The SVD term of a batch: minus the k largest singular values of its logits over a norm.

    Attributes:
      k: the number of leading singular values.
      norm: the denominator: frobenius or nuclear.
      method: the algorithm of the streamed objective for the singular values (`linalg.leading`).
      groups: the number of equal parts of the batch, over whose terms the mean is taken.
    """

    k: int
    norm: str
    method: Method
    groups: int

    def __call__(self, logits: jax.Array, mask: jax.Array) -> jax.Array:
        """Compute the term [] from logits [..., V] by a full decomposition."""
        return svd(logits, mask, k=self.k, norm=self.norm, groups=self.groups)
