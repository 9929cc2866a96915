"""A language model's objective from hidden states and a frozen head, never holding [tokens, V].

The head is frozen, so the gradient of the hidden states is formed in the forward loop, while a
chunk's logits are there: three products with the head in all (student, teacher, gradient), none
computed again. `plain` is the definition; this is tested equal to it.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping

import chex
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from balora_jax.models.head import Head
from balora_jax.objective.chunks import Chunks
from balora_jax.objective.plain import Parts, combine
from balora_jax.objective.schedules import effective_weights
from balora_jax.objective.spectrum import leading_share, leading_share_of_logits
from balora_jax.objective.token_terms import largest, largest_on, softmax_entropy, token_terms
from balora_jax.regularizers import nlg
from balora_jax.regularizers.nlg import Divergence, LeadingShare, NegativeEntropy
from balora_jax.regularizers.terms import Terms

# Tokens in a device's part of a chunk, and the most numbers their logits may have. An accelerator
# needs many tokens to be busy; two cores are as busy with fewer, which take less memory.
CHUNK_TOKENS = 512
CHUNK_TOKENS_CPU = 128
CHUNK_NUMBERS = 2**25


@dataclasses.dataclass(frozen=True)
class _Plan:
    """Everything fixed when the program is traced: the terms, the chunks, the layout on the mesh.

    Attributes:
      terms: the terms per token, with their names.
      chunk_size: tokens a device takes at a time; None for the default.
      mesh: the devices; None for one.
      vocabulary: V.
    """

    terms: tuple
    chunk_size: int | None
    mesh: Mesh | None
    vocabulary: int

    @property
    def differentiates(self) -> bool:
        """Whether some term's gradient is made by jax, as those of registered terms are."""
        written_out = (Divergence, NegativeEntropy)
        return not all(isinstance(term.function, written_out) for _, term in self.terms)

    @property
    def shards(self) -> int:
        """Parts that the tokens are divided into."""
        return 1 if self.mesh is None else self.mesh.shape["data"] * self.mesh.shape["fsdp"]

    @property
    def head_axes(self) -> tuple[str, ...]:
        """Mesh axes that the vocabulary is divided over.

        Over fsdp too where it can be: a chunk's tokens go to the parts of the head, not the head to
        the tokens, and no device ever holds the whole head.
        """
        for axes in (("fsdp", "tensor"), ("tensor",)):
            if self.vocabulary % math.prod(self.mesh.shape[axis] for axis in axes) == 0:
                return axes
        return ()

    @property
    def token_axes(self) -> tuple[str, ...]:
        """Mesh axes that a chunk's tokens are divided over while they meet the head."""
        return ("data",) if "fsdp" in self.head_axes else ("data", "fsdp")

    def chunks(self, mask: jax.Array) -> Chunks:
        """Cut the counted tokens of mask [shards, tokens] into chunks."""
        if self.chunk_size:
            return Chunks.of(mask, self.chunk_size)
        if self.mesh is None:
            platform = jax.default_backend()
            shards_together = 1
        else:
            platform = self.mesh.devices.flat[0].platform
            shards_together = self.mesh.shape["fsdp"] if "fsdp" in self.head_axes else 1
        busy = CHUNK_TOKENS_CPU if platform == "cpu" else CHUNK_TOKENS
        affordable = max(CHUNK_NUMBERS // self.vocabulary // 8 * 8, 8)
        return Chunks.of(mask, min(max(busy // shards_together, 64), affordable))

    def gathered(self, array: jax.Array) -> jax.Array:
        """Place a chunk of [shards, ...] beside the head; the whole stays where it was."""
        if self.mesh is None:
            return array
        return self._placed(self.by_token(array), self.token_axes)

    def by_token(self, array: jax.Array) -> jax.Array:
        """Place [shards, ...] as outside the loop: the first dimension over data and fsdp."""
        return array if self.mesh is None else self._placed(array, ("data", "fsdp"))

    def kernel(self, head: Head, dtype: jnp.dtype) -> jax.Array:
        """The head's kernel [d, V] in the hidden states' dtype, placed as in the loop."""
        kernel = head.kernel.astype(dtype)
        return kernel if self.mesh is None else self._placed(kernel, None, self.head_axes or None)

    def logits(
        self, hidden: jax.Array, kernel: jax.Array, head: Head
    ) -> tuple[jax.Array, jax.Array | None]:
        """A chunk's logits [shards, size, V] in float32, and the soft-cap's slope (or None)."""
        logits = jnp.matmul(hidden, kernel, preferred_element_type=jnp.float32)
        if head.bias is not None:
            logits = logits + head.bias.astype(jnp.float32)
        if self.mesh is not None:
            logits = self._placed(logits, self.token_axes, None, self.head_axes or None)
        if head.softcap is None:
            return logits, None
        tanh = jnp.tanh(logits / head.softcap)
        return head.softcap * tanh, 1 - jnp.square(tanh)

    def largest(self, logits: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
        """`token_terms.largest`, also where the vocabulary is divided."""
        if self.mesh is None:
            return largest(logits, k)
        return largest_on(self.mesh, logits, k, self.token_axes, self.head_axes)

    def _placed(self, array: jax.Array, *axes) -> jax.Array:
        return jax.lax.with_sharding_constraint(array, NamedSharding(self.mesh, P(*axes)))


def _stream(plan, hidden, teacher_hidden, head, targets, mask, weights, with_gradient):
    """(weighted sum of the means, the means, its gradient [shards, tokens, d] or None)."""
    terms = dict(plan.terms)
    chunks = plan.chunks(mask)
    kernel = plan.kernel(head, hidden.dtype)
    student = chunks.arrange(hidden)
    arranged_targets = chunks.arrange(targets)
    both = [student] if teacher_hidden is None else [student, chunks.arrange(teacher_hidden)]
    share = 1.0 / jnp.maximum(jnp.sum(mask), 1)
    scales = {"task": jnp.float32(1.0), **weights}

    def chunk_logits(start, counted):
        """The student's logits, the soft-cap's slope there, and the teacher's logits."""
        # Positions that are not counted may hold anything, even NaN.
        parts = [
            jnp.where(counted[..., None], plan.gathered(chunks.at(states, start)), 0)
            for states in both
        ]
        # One product for both: the head is read once.
        logits, cap_slope = plan.logits(jnp.concatenate(parts, axis=1), kernel, head)
        student_logits = logits[:, : chunks.size]
        teacher_logits = None if teacher_hidden is None else logits[:, chunks.size :]
        student_slope = None if cap_slope is None else cap_slope[:, : chunks.size]
        return student_logits, student_slope, teacher_logits

    def body(carry, start, counted):
        sums, gradients = carry
        counted = plan.gathered(counted)
        logits, cap_slope, teacher_logits = chunk_logits(start, counted)
        chunk_targets = jnp.where(counted, plan.gathered(chunks.at(arranged_targets, start)), 0)
        values, gradient = token_terms(logits, teacher_logits, chunk_targets, terms, plan.largest)
        sums = {
            name: sums[name] + jnp.sum(jnp.where(counted, rows, 0.0))
            for name, rows in values.items()
        }
        if gradients is None:
            return sums, None

        slope = gradient({name: jnp.where(counted, scales[name] * share, 0.0) for name in values})
        slope = slope if cap_slope is None else slope * cap_slope
        if plan.differentiates:
            # At logits of 0 a registered term may have no finite slope.
            slope = jnp.where(counted[..., None], slope, 0.0)
        to_hidden = jnp.matmul(
            slope.astype(hidden.dtype), kernel.T, preferred_element_type=jnp.float32
        )
        to_hidden = plan.by_token(to_hidden).astype(hidden.dtype)
        return sums, jax.lax.dynamic_update_slice_in_dim(gradients, to_hidden, start, axis=1)

    zeros = {name: jnp.float32(0.0) for name in scales}
    sums, gradients = chunks.loop(body, (zeros, jnp.zeros_like(student) if with_gradient else None))
    means = {name: total * share for name, total in sums.items()}
    loss = sum(scales[name] * mean for name, mean in means.items())
    if gradients is None:
        return loss, means, None
    return loss, means, plan.by_token(chunks.restore(gradients))


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


def _teacher_entropy(plan, teacher_hidden, head, mask, temperature):
    """The mean entropy of the teacher's softmax at T over the counted tokens, in its own pass."""
    chunks = plan.chunks(mask)
    kernel = plan.kernel(head, teacher_hidden.dtype)
    states = chunks.arrange(teacher_hidden)

    def body(total, start, counted):
        chunk = jnp.where(counted[..., None], chunks.at(states, start), 0)
        logits, _ = plan.logits(chunk, kernel, head)
        rows = softmax_entropy(logits / temperature)
        return total + jnp.sum(jnp.where(counted, rows, 0.0))

    return chunks.loop(body, jnp.float32(0.0)) / jnp.maximum(jnp.sum(mask), 1)


def objective(
    hidden: jax.Array,
    teacher_hidden: jax.Array | None,
    head: Head,
    targets: jax.Array,
    mask: jax.Array,
    *,
    terms: Terms,
    weights: Mapping[str, jax.Array],
    factor: jax.Array | None = None,
    chunk_size: int | None = None,
    mesh: Mesh | None = None,
) -> tuple[jax.Array, Parts]:
    """A language model's loss and its parts: `plain.objective` without its [tokens, V].

    The gradient goes to `hidden` (and `weights`) alone: the head and the teacher are frozen.
    Positions that are not counted are not computed. An adaptive weight takes a fourth product with
    the head, since it is known only when the teacher has been seen on the whole batch. A registered
    term per batch is computed from whole logits, which costs their memory.

    Args:
      hidden: [batch, length, d], the student's last hidden states, in the dtype of the products.
      teacher_hidden: [batch, length, d]; None where no term reads the teacher.
      head: the frozen head of student and teacher, with or without bias and soft-cap.
      targets: [batch, length], the token each position predicts.
      mask: [batch, length], True where the position predicts a counted token.
      terms: the terms that act.
      weights: the scheduled weight of each at this step.
      factor: from `head_factor`, once a run, for the SVD term. Without one (a soft-capped head has
        none) that term alone is computed from whole logits, which costs their memory.
      chunk_size: counted tokens a device takes at a time; by default 512 (on CPU 128), fewer where
        the vocabulary is very large or divided over many devices.
      mesh: the devices, with tokens over (data, fsdp) and the vocabulary over (fsdp, tensor); None
        for one device. batch must be divisible by data x fsdp.

    Returns:
      (loss, parts): float32 scalars; parts as in `plain.objective`.

    Raises:
      AssertionError: when shapes do not fit.
    """
    chex.assert_equal_shape([targets, mask])
    chex.assert_shape(hidden, (*mask.shape, head.kernel.shape[0]))
    needs_teacher = any(term.needs_teacher for term in terms.values())
    if needs_teacher:
        chex.assert_equal_shape([hidden, teacher_hidden])
    per_token = {name: term for name, term in terms.items() if term.per == "token"}
    plan = _Plan(tuple(per_token.items()), chunk_size, mesh, head.kernel.shape[1])

    def by_shard(array: jax.Array) -> jax.Array:
        return plan.by_token(array.reshape(plan.shards, -1, *array.shape[mask.ndim :]))

    counted = by_shard(mask)
    teacher = jax.lax.stop_gradient(by_shard(teacher_hidden)) if needs_teacher else None

    def teacher_entropy(temperature: float) -> jax.Array:
        return _teacher_entropy(plan, teacher, head, counted, temperature)

    effective = effective_weights(terms, weights, teacher_entropy, plan.vocabulary)
    token_weights = {name: effective[name] for name in per_token}
    loss, values = _streamed(
        plan, by_shard(hidden), teacher, head, by_shard(targets), counted, token_weights
    )
    task = values.pop("task")
    for name, value in _batch_terms(hidden, head, mask, terms, factor).items():
        values[name] = value
        loss = loss + effective[name] * value
    return loss, combine(task, values, effective)[1]


def _batch_terms(
    hidden: jax.Array, head: Head, mask: jax.Array, terms: Terms, factor: jax.Array | None
) -> Parts:
    """The terms per batch, unweighted."""
    functions = {name: term.function for name, term in terms.items() if term.per == "batch"}
    from_factor = {
        name
        for name, function in functions.items()
        if isinstance(function, LeadingShare) and factor is not None
    }
    logits = None
    if len(from_factor) < len(functions):
        logits = jax.lax.stop_gradient(head).logits(hidden)

    values = {}
    for name, function in functions.items():
        if name in from_factor:
            values[name] = leading_share(hidden, factor, mask, **dataclasses.asdict(function))
        elif isinstance(function, LeadingShare):
            values[name] = leading_share_of_logits(logits, mask, **dataclasses.asdict(function))
        else:
            value = function(nlg.counted_logits(logits, mask), mask)
            values[name] = jnp.asarray(value, jnp.float32)
    return values


def uses_head_factor(terms: Terms, softcap: float | None) -> bool:
    """Return True if a term is computed from `head_factor`.

    Args:
      terms: the terms that act.
      softcap: the head's; with one there is no factor.
    """
    spectral = any(isinstance(term.function, LeadingShare) for term in terms.values())
    return spectral and softcap is None


def cross_entropy(
    hidden: jax.Array,
    head: Head,
    targets: jax.Array,
    mask: jax.Array,
    *,
    chunk_size: int | None = None,
    mesh: Mesh | None = None,
) -> jax.Array:
    """The mean over counted tokens of -log softmax(Z)[target], streamed.

    Args:
      hidden: [batch, length, d].
      head: the frozen head.
      targets: [batch, length].
      mask: [batch, length].
      chunk_size: as for `objective`.
      mesh: as for `objective`.

    Returns:
      [], float32.
    """
    alone = {"terms": {}, "weights": {}, "chunk_size": chunk_size, "mesh": mesh}
    return objective(hidden, None, head, targets, mask, **alone)[0]
