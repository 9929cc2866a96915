"""The loss of next-token prediction: forward passes of student and teacher, and the objective."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh

from balora_jax.adapters import AdapterSpec, teacher_lora, trained_lora
from balora_jax.data import Batch
from balora_jax.models import CausalLM, head
from balora_jax.models.layers.packing import Packing
from balora_jax.objective import plain, streamed
from balora_jax.objective.params import LossFn, Params, Parts, Tree
from balora_jax.regularizers.terms import Terms


def make_loss(
    model: Any,
    spec: AdapterSpec,
    terms: Terms,
    *,
    head_frozen: bool = True,
    mesh: Mesh | None = None,
) -> LossFn:
    """Make the loss function of a micro-batch.

    The teacher is the base model, with the modules that are trained whole as they were before. In
    the delta form it runs without adapters; in the residual form it runs with the adapters of step
    0. It runs only if a term reads it.

    Args:
      model: a decoder, with its compute dtype and its dropout rate.
      spec: the rank, scale and form of the adapters.
      terms: the terms that act.
      head_frozen: True to stream the objective over chunks of tokens, from hidden states and the
        head. False, if the head is trained or has an adapter, to compute it from whole logits.
      mesh: the devices; None for one device.

    Returns:
      (params, batch, key, weights) -> (loss [], parts).
    """
    needs_teacher = any(term.needs_teacher for term in terms.values())

    def streamed_loss(
        params: Params, batch: Batch, key: jax.Array | None, weights: Parts
    ) -> tuple[jax.Array, Parts]:
        hidden, teacher_hidden = _hidden_states(
            model, params, spec, batch, key, needs_teacher, mesh
        )
        return streamed.objective(
            hidden,
            teacher_hidden,
            head(model, params.base),
            batch.targets,
            batch.mask,
            terms=terms,
            weights=weights,
            factor=params.head_factor,
            mesh=mesh,
        )

    def plain_loss(
        params: Params, batch: Batch, key: jax.Array | None, weights: Parts
    ) -> tuple[jax.Array, Parts]:
        logits = _apply(model, params.base, student_lora_of(params, spec), batch, key)
        teacher_logits = None
        if needs_teacher:
            teacher_lora = _teacher_lora_of(params, spec)
            teacher_logits = _apply(model, params.teacher_base, teacher_lora, batch, None)
        return plain.objective(
            logits, teacher_logits, batch.targets, batch.mask, terms=terms, weights=weights
        )

    return streamed_loss if head_frozen else plain_loss


def make_task_loss(
    model: Any, spec: AdapterSpec, *, head_frozen: bool = True, mesh: Mesh | None = None
) -> Callable[[Params, Batch], jax.Array]:
    """Make the function of the cross-entropy alone, without dropout.

    Args:
      model: as for `make_loss`.
      spec: as for `make_loss`.
      head_frozen: as for `make_loss`.
      mesh: as for `make_loss`.

    Returns:
      (params, batch) -> the mean over the counted tokens [].
    """

    def streamed_loss(params: Params, batch: Batch) -> jax.Array:
        lora = student_lora_of(params, spec)
        hidden = _apply(model, params.base, lora, batch, None, "hidden_states")
        return streamed.cross_entropy(
            hidden, head(model, params.base), batch.targets, batch.mask, mesh=mesh
        )

    def plain_loss(params: Params, batch: Batch) -> jax.Array:
        logits = _apply(model, params.base, student_lora_of(params, spec), batch, None)
        return plain.cross_entropy(logits, batch.targets, batch.mask)

    return streamed_loss if head_frozen else plain_loss


def _hidden_states(
    model: Any,
    params: Params,
    spec: AdapterSpec,
    batch: Batch,
    key: jax.Array | None,
    needs_teacher: bool,
    mesh: Mesh | None,
) -> tuple[jax.Array, jax.Array | None]:
    """The hidden states [batch, length, d] of the student, and of the teacher if it is needed."""
    student_lora = student_lora_of(params, spec)
    if not needs_teacher:
        return _apply(model, params.base, student_lora, batch, key, "hidden_states"), None

    teacher_lora = _teacher_lora_of(params, spec)
    gathers = mesh is not None and mesh.shape["fsdp"] > 1
    if gathers and isinstance(model, CausalLM) and _share_inputs(model, params):
        # In one pass, each layer's weights are gathered once for student and teacher.
        method = "hidden_states_beside_teacher"
        hidden, teacher_hidden = _apply(
            model, params.base, student_lora, batch, key, method, teacher=teacher_lora
        )
    else:
        base = params.teacher_base
        hidden = _apply(model, params.base, student_lora, batch, key, "hidden_states")
        teacher_hidden = _apply(model, base, teacher_lora, batch, None, "hidden_states")
    return hidden, jax.lax.stop_gradient(teacher_hidden)


def _share_inputs(model: CausalLM, params: Params) -> bool:
    """Return True if student and teacher have the same embedding, and the same frozen weights."""
    embedding = params.adapters
    for name in model.embedding_path[:-1]:
        embedding = embedding.get(name, {})
    return params.pretrained is None and not embedding


def student_lora_of(params: Params, spec: AdapterSpec) -> Tree:
    """Return the `lora` collection of the student; empty under method full.

    Args:
      params: the arrays of the model.
      spec: the rank, scale and form of the adapters.
    """
    return trained_lora(params.adapters, params.initial, spec)


def _teacher_lora_of(params: Params, spec: AdapterSpec) -> Tree:
    return teacher_lora(params.initial, spec)


def _apply(
    model: Any,
    base: Tree,
    lora: Tree,
    batch: Batch,
    key: jax.Array | None,
    method: str | None = None,
    **collections: Tree,
) -> Any:
    packed = {}
    if batch.segment_ids is not None:
        packed["packing"] = Packing(batch.positions, batch.segment_ids)
    return model.apply(
        {"params": base, "lora": lora, **collections},
        batch.input_ids,
        batch.attention_mask,
        deterministic=key is None,
        rngs=None if key is None else {"dropout": key},
        method=method,
        **packed,
    )
