"""A language model's objective, streamed: cross-entropy, KL and entropy over chunks of tokens in one pass.

The head is frozen, so the gradient of the hidden states is formed in the forward loop while a chunk's logits are
there: three products with the head in all (student, teacher, gradient), none computed again.
"""

import dataclasses
import functools
import math

import chex
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from balora_jax.config import ConsistencyConfig, DiversityConfig, RegularizersConfig, SvdConfig
from balora_jax.models.head import Head
from balora_jax.objective import plain
from balora_jax.objective.chunks import Chunks
from balora_jax.objective.svd import head_factor, svd, svd_of_logits
from balora_jax.objective.token_terms import largest, largest_on, softmax_entropy, token_terms

__all__ = ["cross_entropy", "head_factor", "nlg", "svd"]
Parts = dict[str, jax.Array]
ALONE = RegularizersConfig(
    ConsistencyConfig(weight=0.0), DiversityConfig(weight=0.0), SvdConfig(weight=0.0)
)
# A device's part of a chunk's logits is of so many tokens, and holds at most so many numbers. An accelerator needs many
# tokens to be busy; two cores are as busy with fewer, which take less memory.
CHUNK_TOKENS, CHUNK_TOKENS_CPU, CHUNK_NUMBERS = 512, 128, 2**25


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What is fixed when the program is made: the terms, the chunks, and what lies where."""

    terms: RegularizersConfig
    chunk_size: int | None
    mesh: Mesh | None
    vocabulary: int

    @property
    def shards(self) -> int:
        return 1 if self.mesh is None else self.mesh.shape["data"] * self.mesh.shape["fsdp"]

    @property
    def head_axes(self) -> tuple[str, ...]:
        """What the vocabulary is divided over.

        Over fsdp too where it can be: a chunk's tokens go to the parts of the head, not the head to the tokens,
        and no device ever holds the whole head.
        """
        for axes in (("fsdp", "tensor"), ("tensor",)):
            if self.vocabulary % math.prod(self.mesh.shape[axis] for axis in axes) == 0:
                return axes
        return ()

    @property
    def token_axes(self) -> tuple[str, ...]:
        """What a chunk's tokens are divided over while they meet the head."""
        return ("data",) if "fsdp" in self.head_axes else ("data", "fsdp")

    def chunks(self, mask: jax.Array) -> Chunks:
        together = (
            1 if self.mesh is None or "fsdp" not in self.head_axes else self.mesh.shape["fsdp"]
        )
        platform = (
            jax.default_backend() if self.mesh is None else self.mesh.devices.flat[0].platform
        )
        many = CHUNK_TOKENS_CPU if platform == "cpu" else CHUNK_TOKENS
        tokens = min(max(many // together, 64), max(CHUNK_NUMBERS // self.vocabulary // 8 * 8, 8))
        return Chunks.of(mask, self.chunk_size or tokens)

    def gathered(self, array: jax.Array) -> jax.Array:
        """A chunk of [shards, ...] as it lies beside the head; what it is a chunk of stays where it was."""
        return array if self.mesh is None else self._placed(self.by_token(array), self.token_axes)

    def by_token(self, array: jax.Array) -> jax.Array:
        """[shards, ...] as it lies outside the loop: the first dimension over data and fsdp."""
        return array if self.mesh is None else self._placed(array, ("data", "fsdp"))

    def kernel(self, head: Head, dtype: jnp.dtype) -> jax.Array:
        """[d, V] in the hidden states' type, as it lies in the loop."""
        kernel = head.kernel.astype(dtype)
        return kernel if self.mesh is None else self._placed(kernel, None, self.head_axes or None)

    def logits(
        self, hidden: jax.Array, kernel: jax.Array, head: Head
    ) -> tuple[jax.Array, jax.Array | None]:
        """A chunk's logits [shards, size, V] in float32, and the soft-cap's slope."""
        logits = jnp.matmul(hidden, kernel, preferred_element_type=jnp.float32)
        if head.bias is not None:
            logits = logits + head.bias.astype(jnp.float32)
        if self.mesh is not None:
            logits = self._placed(logits, self.token_axes, None, self.head_axes or None)
        if head.softcap is None:
            return logits, None
        bent = jnp.tanh(logits / head.softcap)
        return head.softcap * bent, 1 - jnp.square(bent)

    def largest(self, logits: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
        if self.mesh is None:
            return largest(logits, k)
        return largest_on(self.mesh, logits, k, self.token_axes, self.head_axes)

    def _placed(self, array: jax.Array, *axes) -> jax.Array:
        return jax.lax.with_sharding_constraint(array, NamedSharding(self.mesh, P(*axes)))


def _stream(plan, hidden, teacher_hidden, head, targets, mask, weights, with_gradient):
    """(weighted sum of the terms' means, the means, its gradient [shards, tokens, d] or None)."""
    chunks = plan.chunks(mask)
    kernel = plan.kernel(head, hidden.dtype)
    student, aims = chunks.arrange(hidden), chunks.arrange(targets)
    both = [student] if teacher_hidden is None else [student, chunks.arrange(teacher_hidden)]
    each = 1.0 / jnp.maximum(jnp.sum(mask), 1)
    scales = {"task": jnp.float32(1.0), **weights}

    def chunk_logits(start, counted):
        """The student's logits, the soft-cap's slope there, and the teacher's logits."""
        # What is not counted may hold anything, even NaN.
        parts = [
            jnp.where(counted[..., None], plan.gathered(chunks.at(states, start)), 0)
            for states in both
        ]
        # One product for both: the head is read once.
        logits, bend = plan.logits(jnp.concatenate(parts, axis=1), kernel, head)
        aimed = None if teacher_hidden is None else logits[:, chunks.size :]
        return logits[:, : chunks.size], None if bend is None else bend[:, : chunks.size], aimed

    def body(carry, start, counted):
        sums, slopes = carry
        counted = plan.gathered(counted)
        logits, bend, aimed = chunk_logits(start, counted)
        targets_here = jnp.where(counted, plan.gathered(chunks.at(aims, start)), 0)
        values, gradient = token_terms(logits, aimed, targets_here, plan.terms, plan.largest)
        sums = {
            name: sums[name] + jnp.sum(jnp.where(counted, rows, 0.0))
            for name, rows in values.items()
        }
        if slopes is None:
            return sums, None
        slope = gradient({name: jnp.where(counted, scales[name] * each, 0.0) for name in values})
        slope = slope if bend is None else slope * bend
        back = plan.by_token(
            jnp.matmul(slope.astype(hidden.dtype), kernel.T, preferred_element_type=jnp.float32)
        )
        return sums, jax.lax.dynamic_update_slice_in_dim(
            slopes, back.astype(hidden.dtype), start, axis=1
        )

    zeros = {name: jnp.float32(0.0) for name in scales}
    sums, slopes = chunks.loop(body, (zeros, jnp.zeros_like(student) if with_gradient else None))
    means = {name: total * each for name, total in sums.items()}
    loss = sum(scales[name] * mean for name, mean in means.items())
    return loss, means, None if slopes is None else plan.by_token(chunks.restore(slopes))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _streamed(plan, hidden, teacher_hidden, head, targets, mask, weights):
    return _stream(plan, hidden, teacher_hidden, head, targets, mask, weights, with_gradient=False)[
        :2
    ]


def _forward(plan, hidden, teacher_hidden, head, targets, mask, weights):
    loss, means, gradient = _stream(
        plan, hidden, teacher_hidden, head, targets, mask, weights, with_gradient=True
    )
    return (loss, means), (gradient, means, weights)


def _backward(plan, saved, cotangents):
    # The means are for the record: their own cotangents are zero (`plain.combine` stops them).
    gradient, means, weights = saved
    scale, _ = cotangents
    to_weights = {name: scale * means[name] for name in weights}
    return (scale * gradient).astype(gradient.dtype), None, None, None, None, to_weights


_streamed.defvjp(_forward, _backward)


def _teacher_entropy(plan, teacher_hidden, head, mask):
    """The mean entropy of the teacher's softmax over the counted tokens: a pass of its own, with no gradient."""
    chunks = plan.chunks(mask)
    kernel, states = plan.kernel(head, teacher_hidden.dtype), chunks.arrange(teacher_hidden)

    def body(total, start, counted):
        logits, _ = plan.logits(
            jnp.where(counted[..., None], chunks.at(states, start), 0), kernel, head
        )
        return total + jnp.sum(jnp.where(counted, softmax_entropy(logits), 0.0))

    return chunks.loop(body, jnp.float32(0.0)) / jnp.maximum(jnp.sum(mask), 1)


def nlg(
    hidden: jax.Array,
    teacher_hidden: jax.Array | None,
    head: Head,
    targets: jax.Array,
    mask: jax.Array,
    *,
    terms: RegularizersConfig,
    weights: dict[str, jax.Array],
    factor: jax.Array | None = None,
    chunk_size: int | None = None,
    mesh: Mesh | None = None,
) -> tuple[jax.Array, Parts]:
    """A language model's loss and its parts, from hidden states: `plain.nlg` without its [tokens, V].

    The gradient goes to `hidden` (and `weights`) alone: the head and the teacher are frozen. Positions that are not
    counted are not computed. An adaptive consistency weight takes a fourth product with the head, since it is known
    only when the teacher has been seen on the whole batch.

    Args:
      hidden: [batch, length, d], the student's last hidden states; their type is that of the products.
      teacher_hidden: [batch, length, d]; None will do when consistency's configured weight is 0.
      head: the frozen head, of student and teacher; with or without bias and soft-cap.
      targets: [batch, length], the token each position predicts.
      mask: [batch, length], True where the position predicts a counted token.
      terms: the regularizers.
      weights: each acting term's weight at this step (`schedules.weights_at`).
      factor: from `head_factor`, once a run, for the SVD term. Without one (a soft-capped head has none) that term
        alone is taken from whole logits, which costs their memory.
      chunk_size: counted tokens a device takes at a time; by default 512 (on CPU 128), fewer where the vocabulary is
        very large or divided over many devices.
      mesh: where tokens lie over (data, fsdp) and the vocabulary is to be divided over (fsdp, tensor); None for one
        device. batch must be divisible by data x fsdp.

    Returns:
      (loss, parts): float32 scalars; parts as in `plain.nlg`.

    Raises:
      AssertionError: when shapes do not fit.
    """
    chex.assert_equal_shape([targets, mask])
    chex.assert_shape(hidden, (*mask.shape, head.kernel.shape[0]))
    consistent = terms.consistency.weight > 0
    if consistent:
        chex.assert_equal_shape([hidden, teacher_hidden])
    plan = _Plan(terms, chunk_size, mesh, head.kernel.shape[1])

    def by_shard(array: jax.Array) -> jax.Array:
        return plan.by_token(array.reshape(plan.shards, -1, *array.shape[mask.ndim :]))

    aims, counted = by_shard(targets), by_shard(mask)
    teacher = jax.lax.stop_gradient(by_shard(teacher_hidden)) if consistent else None
    adaptive = consistent and terms.consistency.schedule == "adaptive"
    entropy = _teacher_entropy(plan, teacher, head, counted) if adaptive else None
    weights = plain.effective_weights(terms, weights, entropy, plan.vocabulary)
    by_chunk = {
        name: weights[name]
        for name in ("consistency", "diversity")
        if getattr(terms, name).weight > 0
    }
    loss, values = _streamed(plan, by_shard(hidden), teacher, head, aims, counted, by_chunk)
    task = values.pop("task")
    if terms.svd.weight > 0:
        values["svd"] = _svd_term(hidden, head, mask, terms.svd, factor)
        loss = loss + weights["svd"] * values["svd"]
    return loss, plain.combine(task, values, weights)[1]


def _svd_term(hidden, head, mask, term, factor):
    settings = {"k": term.k, "norm": term.norm, "method": term.method, "groups": term.groups}
    if factor is None:
        return svd_of_logits(jax.lax.stop_gradient(head).logits(hidden), mask, **settings)
    return svd(hidden, factor, mask, **settings)


def cross_entropy(
    hidden: jax.Array,
    head: Head,
    targets: jax.Array,
    mask: jax.Array,
    *,
    chunk_size: int | None = None,
    mesh: Mesh | None = None,
) -> jax.Array:
    """The mean over valid tokens of -log softmax(Z)[target], streamed; arguments as for `nlg`.

    Returns:
      [], float32.
    """
    return nlg(
        hidden, None, head, targets, mask, terms=ALONE, weights={}, chunk_size=chunk_size, mesh=mesh
    )[0]
