"""LoRA's initialization, and the adapters that the student's and the teacher's layers read.

An adapter tree has the structure of the frozen parameters down to the adapted layers, with {a, b}
in place of {kernel}: a is [..., in, rank] and b is [..., rank, out], both float32. The leading
axis, if any, counts stacked layers. `initial` is the adapter tree of step 0, or None where A B was
zero then (LoRA).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util
from jax.sharding import Mesh

from balora_jax.adapters.spec import AdapterSpec
from balora_jax.adapters.targets import Path, adapted_leaf

Tree = Mapping[str, Any]


def init_lora(
    params: Tree,
    paths: Sequence[Path],
    rank: int,
    key: jax.Array,
    *,
    scale: float = 1.0,
    mesh: Mesh | None = None,
) -> Tree:
    """LoRA adapters for the layers at `paths`: A random and B zero.

    Hu et al., arXiv 2106.09685. A is Kaiming uniform with a = sqrt(5), as in PEFT and torch. Of an
    embedding A is zero and B normal, also as in PEFT: every token starts with the same B.

    Args:
      params: frozen parameters; only the kernels' shapes are used.
      paths: the layers to adapt.
      rank: columns of A.
      key: random key.
      scale: unused; A and B do not depend on the scale.
      mesh: unused; no kernel is read.

    Returns:
      {a, b} at every path, float32.
    """
    del scale, mesh
    flat = traverse_util.flatten_dict(params)
    adapters = {}
    for path, path_key in zip(paths, jax.random.split(key, len(paths)), strict=True):
        leaf = adapted_leaf(flat, path)
        *stack, fan_in, fan_out = flat[leaf].shape
        if leaf[-1] == "embedding":
            adapters[(*path, "a")] = jnp.zeros((fan_in, rank))
            adapters[(*path, "b")] = jax.random.normal(path_key, (rank, fan_out))
            continue
        bound = 1 / math.sqrt(fan_in)
        adapters[(*path, "a")] = jax.random.uniform(
            path_key, (*stack, fan_in, rank), minval=-bound, maxval=bound
        )
        adapters[(*path, "b")] = jnp.zeros((*stack, rank, fan_out))
    return traverse_util.unflatten_dict(adapters)


def student_lora(adapters: Tree, initial: Tree | None, spec: AdapterSpec) -> Tree:
    """The `lora` collection of the fine-tuned model, with the scale folded into b.

    Without initial adapters, or in the residual form, only the scale is applied:

        {"q": {"a": A, "b": B}}  ->  {"q": {"a": A, "b": s B}}

    In the delta form with initial adapters A0 and B0 the rank doubles:

        {"q": {"a": A, "b": B}}  ->  {"q": {"a": [A - A0 | A0], "b": s [B ; B - B0]}}

    The product of these is s (A B - A0 B0), with the differences taken before the products:
    A B - A0 B0 = (A - A0) B + A0 (B - B0). It is exactly zero at step 0, and small updates survive
    a bfloat16 product, where the difference of two products would round them away.

    Args:
      adapters: {a, b} tree as trained.
      initial: {a, b} tree of step 0, or None where its A B was zero.
      spec: rank, scale and form.

    Returns:
      {a, b} tree with a [..., in, R] and b [..., R, out]; R is the rank, or twice the rank in the
      delta form with initial adapters.
    """
    if initial is None or spec.form == "residual":
        return scale_change(adapters, spec.scale)
    current = traverse_util.flatten_dict(adapters)
    start = traverse_util.flatten_dict(initial)
    lora = {}
    for path in sorted({path[:-1] for path in current}):
        a = current[(*path, "a")]
        b = current[(*path, "b")]
        a0 = start[(*path, "a")]
        b0 = start[(*path, "b")]
        lora[(*path, "a")] = jnp.concatenate([a - a0, a0], axis=-1)
        lora[(*path, "b")] = spec.scale * jnp.concatenate([b, b - b0], axis=-2)
    return traverse_util.unflatten_dict(lora)


def trained_lora(adapters: Tree, initial: Tree | None, spec: AdapterSpec) -> Tree:
    """The student's `lora` collection in a loss: that of `student_lora`, but of its own rank.

    With initial adapters in the delta form, the layers take the differences themselves, and the
    gradients of A and B have their rank:

        {"q": {"a": A, "b": B}}  ->  {"q": {"a": A, "b": B, "a0": A0, "b0": B0, "scale": s}}

    Args:
      adapters: {a, b} tree as trained.
      initial: {a, b} tree of step 0, or None where its A B was zero. It has no gradient.
      spec: rank, scale and form.

    Returns:
      The tree above, with scale [...] float32; that of `student_lora` without initial adapters or
      in the residual form.
    """
    if initial is None or spec.form == "residual":
        return student_lora(adapters, initial, spec)
    lora = traverse_util.flatten_dict(adapters)
    start = jax.lax.stop_gradient(traverse_util.flatten_dict(initial))
    for path in sorted({path[:-1] for path in start}):
        a0 = start[(*path, "a")]
        lora[(*path, "a0")] = a0
        lora[(*path, "b0")] = start[(*path, "b")]
        lora[(*path, "scale")] = jnp.full(a0.shape[:-2], spec.scale, jnp.float32)
    return traverse_util.unflatten_dict(lora)


def teacher_lora(initial: Tree | None, spec: AdapterSpec) -> Tree:
    """The `lora` collection of the pre-trained model.

    Delta form: the base is unchanged, so the teacher has no adapters.

        {"q": {"a": A0, "b": B0}}  ->  {}

    Residual form: s A0 B0 restores what the base lacks.

        {"q": {"a": A0, "b": B0}}  ->  {"q": {"a": A0, "b": s B0}}

    Args:
      initial: {a, b} tree of step 0, or None where its A B was zero.
      spec: rank, scale and form.
    """
    if initial is None or spec.form == "delta":
        return {}
    return scale_change(initial, spec.scale)


def scale_change(adapters: Tree, scale: float) -> Tree:
    """Multiply the change of the weights by a number.

        {"q": {"a": A, "b": B}}  ->  {"q": {"a": A, "b": s B}}

    Args:
      adapters: {a, b} tree.
      scale: s.

    Returns:
      The tree with every b multiplied.
    """
    flat = traverse_util.flatten_dict(adapters)
    scaled = {path: scale * leaf if path[-1] == "b" else leaf for path, leaf in flat.items()}
    return traverse_util.unflatten_dict(scaled)
