"""The regularizers of a classifier: consistency, diversity and SVD over the examples of a batch.

All take logits [N, D] (examples, classes), compute in float32 and return a float32 scalar to be minimized.
"""

from dataclasses import dataclass
from typing import Literal

import chex
import jax
import jax.numpy as jnp

from balora_jax.linalg.singular_values import ratio, singular_values
from balora_jax.regularizers.nlg import divergence


def _unit_rows(logits: jax.Array) -> jax.Array:
    squares = jnp.sum(jnp.square(logits), axis=-1, keepdims=True)
    some = squares > 0
    # A row of zeros has no direction: it stays 0, with no gradient.
    return jnp.where(some, logits / jnp.sqrt(jnp.where(some, squares, 1.0)), 0.0)


def consistency(
    logits: jax.Array,
    teacher_logits: jax.Array,
    *,
    form: Literal["kl", "mse"] = "kl",
    temperature: float = 2.0,
) -> jax.Array:
    """Stay near the pre-trained model's outputs.

    BA-LoRA's L_CR for NLU: T^2 KL(softmax(Z_P / T) || softmax(Z_F / T)), mean over examples, in the ICLR 2026
    version; the mean over all elements of (z_F / |z_F| - z_P / |z_P|)^2 in the 2024 one.

    Args:
      logits: [N, D], the student's Z_F.
      teacher_logits: [N, D], the pre-trained model's Z_P; gets no gradient.
      form: kl (2026) or mse (2024).
      temperature: T, above 0; kl only.

    Returns:
      [], float32.

    Raises:
      AssertionError: when shapes do not fit.
    """
    chex.assert_rank([logits, teacher_logits], 2)
    chex.assert_equal_shape([logits, teacher_logits])
    student = logits.astype(jnp.float32)
    teacher = jax.lax.stop_gradient(teacher_logits).astype(jnp.float32)
    if form == "kl":
        return jnp.mean(divergence(student, teacher, temperature))
    return jnp.mean(unit_distance(student, teacher))


def unit_distance(logits: jax.Array, teacher_logits: jax.Array) -> jax.Array:
    """(z_F / |z_F| - z_P / |z_P|)^2 of every element.

    Args:
      logits: [N, D], float32.
      teacher_logits: [N, D], float32; gets no gradient.

    Returns:
      [N, D], float32.
    """
    teacher = jax.lax.stop_gradient(teacher_logits)
    return jnp.square(_unit_rows(logits) - _unit_rows(teacher))


def diversity(logits: jax.Array) -> jax.Array:
    """Decorrelate the classes: (1/D) sum_{i != j} C_ij^2, C = Zc^T Zc / (N - 1).

    BA-LoRA's L_DR for NLU, both versions. 0 for one class or one example.

    Args:
      logits: [N, D].

    Returns:
      [], float32, at least 0.

    Raises:
      AssertionError: when logits are not a matrix.
    """
    chex.assert_rank(logits, 2)
    examples, classes = logits.shape
    logits = logits.astype(jnp.float32)
    centered = logits - jnp.mean(logits, axis=0)
    covariance = centered.T @ centered / max(examples - 1, 1)
    return jnp.sum(jnp.where(jnp.eye(classes, dtype=bool), 0.0, jnp.square(covariance))) / classes


def svd(logits: jax.Array, *, k: int) -> jax.Array:
    """Concentrate the logits on their leading directions: - sum_{i<=k} s_i / sum_j s_j.

    BA-LoRA's L_SVDR for NLU: k = 5 in the ICLR 2026 version, 3 in the 2024 one. With k >= min(N, D) it is the
    constant -1 and does nothing.

    Args:
      logits: [N, D].
      k: how many singular values lead.

    Returns:
      [], float32, from -1 to 0.

    Raises:
      AssertionError: when logits are not a matrix.
    """
    values = singular_values(logits)
    return -ratio(jnp.sum(values[:k]), jnp.sum(values))


@dataclass(frozen=True)
class UnitDistance:
    """The mean over classes of (z_F / |z_F| - z_P / |z_P|)^2 of each example."""

    def __call__(
        self, logits: jax.Array, teacher_logits: jax.Array, targets: jax.Array
    ) -> jax.Array:
        """Compute [N] from logits [N, D]; the targets are not read."""
        return jnp.mean(unit_distance(logits, teacher_logits), axis=-1)


@dataclass(frozen=True)
class Covariance:
    """(1/D) sum_{i != j} C_ij^2 of a classifier's logits."""

    def __call__(self, logits: jax.Array, mask: jax.Array) -> jax.Array:
        """Compute [] from logits [N, D] of examples that all count."""
        return diversity(logits)


@dataclass(frozen=True)
class NuclearShare:
    """Minus the k largest singular values of a classifier's logits over the sum of all.

    Attributes:
      k: how many singular values lead.
    """

    k: int

    def __call__(self, logits: jax.Array, mask: jax.Array) -> jax.Array:
        """Compute [] from logits [N, D] of examples that all count."""
        return svd(logits, k=self.k)
