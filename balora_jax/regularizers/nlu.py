"""The regularizers of a classifier: consistency, diversity and SVD over the examples of a batch.

All read logits [N, D] (examples, classes), compute in float32 and return a float32 scalar to be
minimized.
"""

from dataclasses import dataclass
from typing import Literal

import chex
import jax
import jax.numpy as jnp

from balora_jax.linalg.singular_values import ratio, singular_values
from balora_jax.regularizers.nlg import divergence


def _unit_rows(logits: jax.Array) -> jax.Array:
    """Scale each row to length 1."""
    squares = jnp.sum(jnp.square(logits), axis=-1, keepdims=True)
    nonzero = squares > 0
    # A row of zeros has no direction: it stays 0, without gradient.
    lengths = jnp.sqrt(jnp.where(nonzero, squares, 1.0))
    return jnp.where(nonzero, logits / lengths, 0.0)


def consistency(
    logits: jax.Array,
    teacher_logits: jax.Array,
    *,
    form: Literal["kl", "mse"] = "kl",
    temperature: float = 2.0,
) -> jax.Array:
    """Compute the consistency term, which keeps the student near the pre-trained model.

    L_CR of BA-LoRA for NLU (arXiv 2408.04556). The ICLR 2026 version (kl) is the mean over the
    examples, the 2024 version (mse) the mean over all elements of

        T^2 KL(softmax(Z_P / T) || softmax(Z_F / T))      kl
        (z_F / |z_F| - z_P / |z_P|)^2                     mse

    Args:
      logits: [N, D], the student's Z_F.
      teacher_logits: [N, D], the pre-trained model's Z_P; gets no gradient.
      form: kl or mse.
      temperature: T, above 0; for kl alone.

    Returns:
      [], float32.

    Raises:
      AssertionError: the shapes do not fit.
    """
    chex.assert_rank([logits, teacher_logits], 2)
    chex.assert_equal_shape([logits, teacher_logits])
    student = logits.astype(jnp.float32)
    teacher = jax.lax.stop_gradient(teacher_logits).astype(jnp.float32)
    if form == "kl":
        return jnp.mean(divergence(student, teacher, temperature))
    return jnp.mean(unit_distance(student, teacher))


def unit_distance(logits: jax.Array, teacher_logits: jax.Array) -> jax.Array:
    """Compute (z_F / |z_F| - z_P / |z_P|)^2 of every element.

    Args:
      logits: [N, D], float32.
      teacher_logits: [N, D], float32; gets no gradient.

    Returns:
      [N, D], float32.
    """
    teacher = jax.lax.stop_gradient(teacher_logits)
    return jnp.square(_unit_rows(logits) - _unit_rows(teacher))


def diversity(logits: jax.Array) -> jax.Array:
    """Compute the diversity term, which decorrelates the classes.

    L_DR of BA-LoRA for NLU (arXiv 2408.04556), the same in both versions:

        (1 / D) sum_{i != j} C_ij^2,  with the covariance C = Zc^T Zc / (N - 1)

    of the centered logits Zc.

    Args:
      logits: [N, D].

    Returns:
      [], float32, at least 0; 0 for one class or one example.

    Raises:
      AssertionError: the logits are not a matrix.
    """
    chex.assert_rank(logits, 2)
    examples, classes = logits.shape
    logits = logits.astype(jnp.float32)

    # C = Zc^T Zc / (N - 1).
    centered = logits - jnp.mean(logits, axis=0)
    gram = jnp.matmul(centered.T, centered, precision=jax.lax.Precision.HIGHEST)
    covariance = gram / max(examples - 1, 1)

    # (1 / D) sum_{i != j} C_ij^2.
    diagonal = jnp.eye(classes, dtype=bool)
    return jnp.sum(jnp.where(diagonal, 0.0, jnp.square(covariance))) / classes


def svd(logits: jax.Array, *, k: int) -> jax.Array:
    """Compute the SVD term, which concentrates the logits on their leading singular directions.

    L_SVDR of BA-LoRA for NLU (arXiv 2408.04556), with the singular values s of the logits:

        - sum_{i<=k} s_i / sum_j s_j

    k = 5 in the ICLR 2026 version, 3 in the 2024 version. With k >= min(N, D) the term is the
    constant -1 and has no effect.

    Args:
      logits: [N, D].
      k: the number of leading singular values.

    Returns:
      [], float32, from -1 to 0.

    Raises:
      AssertionError: the logits are not a matrix.
    """
    values = singular_values(logits)
    return -ratio(jnp.sum(values[:k]), jnp.sum(values))


@dataclass(frozen=True)
class UnitDistance:
    """The consistency term of each example, form mse: mean_D (z_F / |z_F| - z_P / |z_P|)^2."""

    def __call__(
        self, logits: jax.Array, teacher_logits: jax.Array, targets: jax.Array
    ) -> jax.Array:
        """Compute the term [N] of every example from logits [N, D]; targets are not read."""
        return jnp.mean(unit_distance(logits, teacher_logits), axis=-1)


@dataclass(frozen=True)
class Covariance:
    """The diversity term of a batch: (1 / D) sum_{i != j} C_ij^2."""

    def __call__(self, logits: jax.Array, mask: jax.Array) -> jax.Array:
        """Compute the term [] from logits [N, D]; every example must be counted."""
        return diversity(logits)


@dataclass(frozen=True)
class NuclearShare:
    """The SVD term of a batch: minus the k largest singular values of its logits over all.

    Attributes:
      k: the number of leading singular values.
    """

    k: int

    def __call__(self, logits: jax.Array, mask: jax.Array) -> jax.Array:
        """Compute the term [] from logits [N, D]; every example must be counted."""
        return svd(logits, k=self.k)
