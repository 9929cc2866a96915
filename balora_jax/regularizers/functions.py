"""The paper's terms as functions with fixed settings, which the objective calls or recognizes.

Those of a token take (logits [..., V], teacher_logits [..., V], targets [...]) and return [...];
those of a batch take (logits [..., V], mask [...]) and return []. All compute in float32. The
streamed objective recognizes Divergence, NegativeEntropy and LeadingShare and computes them its
own way; any other function is differentiated by jax.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from balora_jax.linalg.leading import Method
from balora_jax.regularizers import nlg, nlu


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
        return nlg.divergence(logits, teacher_logits, self.temperature)


@dataclass(frozen=True)
class UnitDistance:
    """The mean over classes of (z_F / |z_F| - z_P / |z_P|)^2 of each example."""

    def __call__(
        self, logits: jax.Array, teacher_logits: jax.Array, targets: jax.Array
    ) -> jax.Array:
        """Compute [N] from logits [N, D]; the targets are not read."""
        return jnp.mean(nlu.unit_distance(logits, teacher_logits), axis=-1)


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
        return -nlg.entropy(logits, self.top_k)


@dataclass(frozen=True)
class Covariance:
    """(1/D) sum_{i != j} C_ij^2 of a classifier's logits."""

    def __call__(self, logits: jax.Array, mask: jax.Array) -> jax.Array:
        """Compute [] from logits [N, D] of examples that all count."""
        return nlu.diversity(logits)


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
        return nlg.svd(logits, mask, k=self.k, norm=self.norm, groups=self.groups)


@dataclass(frozen=True)
class NuclearShare:
    """Minus the k largest singular values of a classifier's logits over the sum of all.

    Attributes:
      k: how many singular values lead.
    """

    k: int

    def __call__(self, logits: jax.Array, mask: jax.Array) -> jax.Array:
        """Compute [] from logits [N, D] of examples that all count."""
        return nlu.svd(logits, k=self.k)
