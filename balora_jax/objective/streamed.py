"""The objective of a language model from hidden states and a frozen head, without [tokens, V].

The loss is computed in chunks of tokens. Since the head is frozen, the gradient of the hidden
states is computed in the same loop, while the logits of a chunk are in memory. This takes three
products with the head (student, teacher, gradient), and none is computed twice. `plain` is the
definition, and tests hold both equal.
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
from balora_jax.objective.spectrum import checked_share, checked_share_of_logits
from balora_jax.objective.token_terms import largest, largest_on, softmax_entropy, token_terms
from balora_jax.regularizers import nlg
from balora_jax.regularizers.nlg import Divergence, LeadingShare, NegativeEntropy
from balora_jax.regularizers.terms import Term, Terms

# Tokens in a device's part of a chunk, and the most elements that their logits may have. An
# accelerator needs many tokens to be busy. A CPU is as busy with fewer, which take less memory.
CHUNK_TOKENS = 512
CHUNK_TOKENS_CPU = 128
CHUNK_NUMBERS = 2**25


@dataclasses.dataclass(frozen=True)
class _Plan:
    """The static part of the computation: the terms, the chunks and the layout on the mesh.

    Attributes:
      terms: (name, term) of every term per token.
      chunk_size: counted tokens of a chunk on each device; None for the default.
      mesh: the devices; None for one device.
      vocabulary: V.
    """

    terms: tuple[tuple[str, Term], ...]
    chunk_size: int | None
    mesh: Mesh | None
    vocabulary: int

    @property
    def differentiates(self) -> bool:
        """True if jax computes the gradient of a term, as it does for registered terms."""
        with_written_gradient = (Divergence, NegativeEntropy)
        return not all(isinstance(term.function, with_written_gradient) for _, term in self.terms)

    @property
    def shards(self) -> int:
        """The number of parts that the tokens are divided into."""
        if self.mesh is None:
            return 1
        return self.mesh.shape["data"] * self.mesh.shape["fsdp"]

    @property
    def head_axes(self) -> tuple[str, ...]:
        """The mesh axes that the vocabulary is divided over: fsdp and tensor, or tensor, or none.

        With fsdp the tokens of a chunk move to the parts of the head, instead of the head to the
        tokens, and no device ever holds the whole head.
        """
        for axes in (("fsdp", "tensor"), ("tensor",)):
            if self.vocabulary % math.prod(self.mesh.shape[axis] for axis in axes) == 0:
                return axes
        return ()

    @property
    def token_axes(self) -> tuple[str, ...]:
        """The mesh axes that the tokens of a chunk are divided over in products with the head."""
        return ("data",) if "fsdp" in self.head_axes else ("data", "fsdp")

    def chunks(self, mask: jax.Array) -> Chunks:
        """Divide the counted tokens of mask [shards, tokens] into chunks."""
        if self.chunk_size:
            return Chunks.of(mask, self.chunk_size)
        if self.mesh is None:
            platform = jax.default_backend()
            shards_together = 1
        else:
            platform = self.mesh.devices.flat[0].platform
            shards_together = self.mesh.shape["fsdp"] if "fsdp" in self.head_axes else 1
        tokens = CHUNK_TOKENS_CPU if platform == "cpu" else CHUNK_TOKENS
        preferred = max(tokens // shards_together, 64)
        most = max(CHUNK_NUMBERS // self.vocabulary // 8 * 8, 8)
        return Chunks.of(mask, min(preferred, most))

    def gathered(self, array: jax.Array) -> jax.Array:
        """Move a chunk [shards, ...] to the devices that hold the parts of the head."""
        if self.mesh is None:
            return array
        return self._placed(self.by_token(array), self.token_axes)

    def by_token(self, array: jax.Array) -> jax.Array:
        """Divide [shards, ...] over data and fsdp, as outside the loop."""
        return array if self.mesh is None else self._placed(array, ("data", "fsdp"))

    def kernel(self, head: Head, dtype: jnp.dtype) -> jax.Array:
        """Return the kernel [d, V] in the dtype of the hidden states, divided over V."""
        kernel = head.kernel.astype(dtype)
        if self.mesh is None:
            return kernel
        return self._placed(kernel, None, self.head_axes or None)

    def logits(
        self, hidden: jax.Array, kernel: jax.Array, head: Head
    ) -> tuple[jax.Array, jax.Array | None]:
        """Compute the logits of a chunk.

        Args:
          hidden: [shards, size, d].
          kernel: [d, V], from `kernel`.
          head: the head, for its bias and soft-cap.

        Returns:
          The logits [shards, size, V] and the derivative of the soft-cap there, float32; None for
          the derivative if there is no soft-cap.
        """
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
        """Return the k largest logits and the largest one, as `token_terms.largest`."""
        if self.mesh is None:
            return largest(logits, k)
        return largest_on(self.mesh, logits, k, self.token_axes, self.head_axes)

    def _placed(self, array: jax.Array, *axes) -> jax.Array:
        return jax.lax.with_sharding_constraint(array, NamedSharding(self.mesh, P(*axes)))


def _stream(plan, hidden, teacher_hidden, head, targets, mask, weights, with_gradient):
    """Run the loop over chunks of tokens.

    Args:
      plan: the static part of the computation.
      hidden: [shards, tokens, d], the student's hidden states.
      teacher_hidden: [shards, tokens, d], or None if no term reads the teacher.
      head: the frozen head.
      targets: int [shards, tokens].
      mask: bool [shards, tokens], True where counted.
      weights: the weight of each term per token: [].
      with_gradient: True to compute the gradient.

    Returns:
      (loss, means, gradient): L_task plus the weighted terms []; the mean of L_task and of every
      term over the counted tokens, by name; and the gradient of the loss with respect to `hidden`
      [shards, tokens, d], or None.
    """
    terms = dict(plan.terms)
    chunks = plan.chunks(mask)
    kernel = plan.kernel(head, hidden.dtype)
    student = chunks.arrange(hidden)
    arranged_targets = chunks.arrange(targets)
    models = [student]
    if teacher_hidden is not None:
        models.append(chunks.arrange(teacher_hidden))
    share = 1.0 / jnp.maximum(jnp.sum(mask), 1)
    scales = {"task": jnp.float32(1.0), **weights}

    def chunk_logits(start, counted):
        """The student's logits, the derivative of their soft-cap, and the teacher's logits."""
        # Positions that are not counted may hold any value, even NaN.
        parts = [
            jnp.where(counted[..., None], plan.gathered(chunks.at(states, start)), 0)
            for states in models
        ]
        # One product for student and teacher: the head is read once.
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

        # The gradient with respect to the logits.
        token_scales = {name: jnp.where(counted, scales[name] * share, 0.0) for name in values}
        logit_gradient = gradient(token_scales)
        if cap_slope is not None:
            logit_gradient = logit_gradient * cap_slope
        if plan.differentiates:
            # The gradient of a registered term may not be finite where all logits are 0.
            logit_gradient = jnp.where(counted[..., None], logit_gradient, 0.0)

        # The gradient with respect to the hidden states.
        hidden_gradient = jnp.matmul(
            logit_gradient.astype(hidden.dtype), kernel.T, preferred_element_type=jnp.float32
        )
        hidden_gradient = plan.by_token(hidden_gradient).astype(hidden.dtype)
        gradients = jax.lax.dynamic_update_slice_in_dim(gradients, hidden_gradient, start, axis=1)
        return sums, gradients

    first_sums = {name: jnp.float32(0.0) for name in scales}
    first_gradients = jnp.zeros_like(student) if with_gradient else None
    sums, gradients = chunks.loop(body, (first_sums, first_gradients))
    means = {name: total * share for name, total in sums.items()}
    loss = sum(scales[name] * mean for name, mean in means.items())
    if gradients is None:
        return loss, means, None
    return loss, means, plan.by_token(chunks.restore(gradients))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _streamed(plan, hidden, teacher_hidden, head, targets, mask, weights):
    """The first two results of `_stream`; the gradient goes to `hidden` and `weights` alone."""
    loss, means, _ = _stream(
        plan, hidden, teacher_hidden, head, targets, mask, weights, with_gradient=False
    )
    return loss, means


def _forward(plan, hidden, teacher_hidden, head, targets, mask, weights):
    loss, means, gradient = _stream(
        plan, hidden, teacher_hidden, head, targets, mask, weights, with_gradient=True
    )
    return (loss, means), (gradient, means, weights)


def _backward(plan, saved, cotangents):
    # The means carry no gradient (`plain.combine` stops it), so their cotangents are zero.
    gradient, means, weights = saved
    scale, _ = cotangents
    hidden_gradient = (scale * gradient).astype(gradient.dtype)
    weight_gradients = {name: scale * means[name] for name in weights}
    return hidden_gradient, None, None, None, None, weight_gradients


_streamed.defvjp(_forward, _backward)


def _teacher_entropy(plan, teacher_hidden, head, mask, temperature):
    """The mean over the counted tokens of the entropy of the teacher's softmax at temperature T."""
    chunks = plan.chunks(mask)
    kernel = plan.kernel(head, teacher_hidden.dtype)
    states = chunks.arrange(teacher_hidden)

    def body(total, start, counted):
        chunk = jnp.where(counted[..., None], chunks.at(states, start), 0)
        logits, _ = plan.logits(chunk, kernel, head)
        rows = softmax_entropy(logits / temperature)
        return total + jnp.sum(jnp.where(counted, rows, 0.0))

    total = chunks.loop(body, jnp.float32(0.0))
    return total / jnp.maximum(jnp.sum(mask), 1)


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
    """Compute the loss of a language model as `plain.objective` does, without [tokens, V].

    Only `hidden` and `weights` get a gradient: the head and the teacher are frozen. Positions that
    are not counted are not computed. An adaptive weight costs a fourth product with the head,
    because it depends on the teacher's logits of the whole batch. A registered term per batch is
    computed from whole logits, and costs their memory.

    Args:
      hidden: [batch, length, d], the student's last hidden states, in the dtype of the products.
      teacher_hidden: [batch, length, d]; None if no term reads the teacher.
      head: the frozen head of student and teacher, with or without bias and soft-cap.
      targets: int [batch, length], the token that each position predicts.
      mask: bool [batch, length], True where the position predicts a counted token.
      terms: the terms that act.
      weights: the scheduled weight of each term at this step: [].
      factor: from `head_factor`, for the SVD term. Without it (a soft-capped head has none) that
        term is computed from whole logits, and costs their memory.
      chunk_size: counted tokens of a chunk on each device; by default 512 (on CPU 128), and fewer
        if the vocabulary is very large or divided over many devices.
      mesh: the devices, with tokens over (data, fsdp) and the vocabulary over (fsdp, tensor); None
        for one device. batch must be divisible by data x fsdp.

    Returns:
      The loss [] and its parts, float32 scalars named as in `plain.combine`; with an SVD term
      by subspace also `unsettled_<name>`, the share of its groups whose rounds ended before they
      had converged.

    Raises:
      AssertionError: the shapes do not fit.
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
    batch_values, unsettled = _batch_terms(hidden, head, mask, terms, factor, mesh)
    for name, value in batch_values.items():
        values[name] = value
        loss = loss + effective[name] * value
    _, parts = combine(task, values, effective)
    return loss, parts | {f"unsettled_{name}": share for name, share in unsettled.items()}


def _batch_terms(
    hidden: jax.Array,
    head: Head,
    mask: jax.Array,
    terms: Terms,
    factor: jax.Array | None,
    mesh: Mesh | None,
) -> tuple[Parts, Parts]:
    """The values of the terms per batch, unweighted, and the unsettled share of the SVD term."""
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
    unsettled = {}
    for name, function in functions.items():
        if isinstance(function, LeadingShare):
            settings = dataclasses.asdict(function)
            if name in from_factor:
                share, unsettled_share = checked_share(hidden, factor, mask, mesh=mesh, **settings)
            else:
                share, unsettled_share = checked_share_of_logits(logits, mask, **settings)
            values[name] = share
            if function.method == "subspace":
                unsettled[name] = unsettled_share
        else:
            value = function(nlg.counted_logits(logits, mask), mask)
            values[name] = jnp.asarray(value, jnp.float32)
    return values, jax.lax.stop_gradient(unsettled)


def uses_head_factor(terms: Terms, softcap: float | None) -> bool:
    """Return True if a term is computed from `head_factor`.

    Args:
      terms: the terms that act.
      softcap: the soft-cap of the head; None if it has none. A head with a soft-cap has no factor.
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
    """Compute the mean over the counted tokens of -log softmax(Z)[target], without [tokens, V].

    Args:
      hidden: [batch, length, d].
      head: the frozen head.
      targets: int [batch, length].
      mask: bool [batch, length], True where counted.
      chunk_size: as for `objective`.
      mesh: as for `objective`.

    Returns:
      [], float32.
    """
    loss, _ = objective(
        hidden,
        None,
        head,
        targets,
        mask,
        terms={},
        weights={},
        chunk_size=chunk_size,
        mesh=mesh,
    )
    return loss
