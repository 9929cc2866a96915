"""Next-token prediction: the student's and the teacher's forward passes, and the objective between them."""

from typing import Any

import jax
from jax.sharding import Mesh

from balora_jax.adapters import AdapterSpec, student_lora, teacher_lora
from balora_jax.config import RegularizersConfig
from balora_jax.data import Batch
from balora_jax.models import CausalLM, head
from balora_jax.objective import plain, streamed
from balora_jax.training.step import LossFn, Parts

Tree = Any


def make_loss(
    model: Any,
    spec: AdapterSpec,
    terms: RegularizersConfig,
    *,
    head_frozen: bool = True,
    mesh: Mesh | None = None,
) -> LossFn:
    """The loss of a micro-batch: (params, batch, key, weights) -> (loss, parts).

    `params` are {"base", "adapters", "initial", "factor"}: the frozen tree, the trained {a, b} tree, the one of step 0
    and the head's factor ({} where there is none). The teacher is the same base with the adapters off (delta
    form) or as they were at step 0 (residual form); it runs only when consistency's weight is not 0.

    Args:
      model: a decoder, in its compute dtype and with its dropout rate.
      spec: what the adapters mean.
      terms: the regularizers in force.
      head_frozen: the objective streams over tokens, from hidden states and the head; False (the head is trained,
        or has an adapter): it is computed from whole logits.
      mesh: of the devices, where there are several.
    """

    def streamed_loss(
        params: Tree, batch: Batch, key: jax.Array | None, weights: Parts
    ) -> tuple[jax.Array, Parts]:
        return streamed.nlg(
            *_states(model, params, spec, batch, key, terms.consistency.weight > 0, mesh),
            head(model, params["base"]),
            batch.targets,
            batch.mask,
            terms=terms,
            weights=weights,
            factor=_factor(params),
            mesh=mesh,
        )

    def whole(
        params: Tree, batch: Batch, key: jax.Array | None, weights: Parts
    ) -> tuple[jax.Array, Parts]:
        logits = _apply(model, params, student(params, spec), batch, key)
        wanted = None
        if terms.consistency.weight > 0:
            wanted = jax.lax.stop_gradient(
                _apply(model, params, _teacher(params, spec), batch, None)
            )
        return plain.nlg(logits, wanted, batch.targets, batch.mask, terms=terms, weights=weights)

    return streamed_loss if head_frozen else whole


def make_task_loss(
    model: Any, spec: AdapterSpec, *, head_frozen: bool = True, mesh: Mesh | None = None
):
    """The cross-entropy alone, without dropout: (params, batch) -> mean over the batch's counted tokens."""

    def streamed_loss(params: Tree, batch: Batch) -> jax.Array:
        hidden = _apply(model, params, student(params, spec), batch, None, "hidden_states")
        return streamed.cross_entropy(
            hidden, head(model, params["base"]), batch.targets, batch.mask, mesh=mesh
        )

    def whole(params: Tree, batch: Batch) -> jax.Array:
        logits = _apply(model, params, student(params, spec), batch, None)
        return plain.cross_entropy(logits, batch.targets, batch.mask)

    return streamed_loss if head_frozen else whole


def _states(
    model, params, spec, batch, key, taught: bool, mesh: Mesh | None
) -> tuple[jax.Array, jax.Array | None]:
    """The student's hidden states and, where there is to be one, the teacher's."""
    if not taught:
        return _apply(model, params, student(params, spec), batch, key, "hidden_states"), None
    if mesh is not None and mesh.shape["fsdp"] > 1 and isinstance(model, CausalLM):
        # Together each layer's weights are gathered once for both; on one device it would save nothing.
        lora, taken = student(params, spec), _teacher(params, spec)
        both = _apply(
            model, params, lora, batch, key, "hidden_states_beside_teacher", teacher=taken
        )
        return both[0], jax.lax.stop_gradient(both[1])
    hidden = _apply(model, params, student(params, spec), batch, key, "hidden_states")
    wanted = _apply(model, params, _teacher(params, spec), batch, None, "hidden_states")
    return hidden, jax.lax.stop_gradient(wanted)


def student(params: Tree, spec: AdapterSpec) -> Tree:
    """The `lora` collection of the model as trained; empty under method full."""
    return student_lora(params["adapters"], params["initial"] or None, spec)


def _teacher(params: Tree, spec: AdapterSpec) -> Tree:
    return teacher_lora(params["initial"] or None, spec)


def _factor(params: Tree) -> jax.Array | None:
    return params["factor"].get("head")


def _apply(
    model: Any,
    params: Tree,
    lora: Tree,
    batch: Batch,
    key: jax.Array | None,
    method: str | None = None,
    **collections: Tree,
) -> Any:
    return model.apply(
        {"params": params["base"], "lora": lora, **collections},
        batch.input_ids,
        batch.attention_mask,
        deterministic=key is None,
        rngs=None if key is None else {"dropout": key},
        method=method,
    )
