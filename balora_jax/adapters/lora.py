"""Low-rank adapters as pure functions over trees.

An adapter tree mirrors the frozen tree down to the linear layers it changes, with {a, b} in place of {kernel}:
a is [..., in, rank], b is [..., rank, out], both float32; the leading axis, if any, counts stacked layers.
`initial` is the adapter tree as it was at step 0, or None where it was zero (LoRA).
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import traverse_util

from balora_jax.adapters.targets import Path

Tree = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class AdapterSpec:
    """What the numbers in an adapter tree mean.

    delta:    y = W x + s (A B - A0 B0) x, on the untouched W.
    residual: y = W_res x + s A B x, with W_res = W - s A0 B0.
    """

    rank: int
    alpha: float | None = None
    rank_stabilized: bool = False
    form: Literal["delta", "residual"] = "delta"

    @property
    def scale(self) -> float:
        """alpha / rank, or alpha / sqrt(rank) when rank-stabilized (Kalajdzievski, arXiv 2312.03732)."""
        alpha = self.rank if self.alpha is None else self.alpha
        return alpha / (math.sqrt(self.rank) if self.rank_stabilized else self.rank)


def init_lora(params: Tree, paths: Sequence[Path], rank: int, key: jax.Array) -> Tree:
    """LoRA's start (Hu et al., 2021): B zero, A Kaiming uniform with a = sqrt(5), as PEFT and torch have it."""
    flat = traverse_util.flatten_dict(params)
    adapters = {}
    for path, path_key in zip(paths, jax.random.split(key, len(paths)), strict=True):
        *stack, fan_in, fan_out = flat[(*path, "kernel")].shape
        bound = 1 / math.sqrt(fan_in)
        adapters[(*path, "a")] = jax.random.uniform(
            path_key, (*stack, fan_in, rank), minval=-bound, maxval=bound
        )
        adapters[(*path, "b")] = jnp.zeros((*stack, rank, fan_out))
    return traverse_util.unflatten_dict(adapters)


def student_path(adapters: Tree, initial: Tree | None, spec: AdapterSpec) -> Tree:
    """The `lora` collection of the fine-tuned model: {a, b} at each target, the scale folded into b.

    In the delta form with an initial adapter the rank doubles, and the difference is taken before anything is
    multiplied: A B - A0 B0 = (A - A0) B + A0 (B - B0). So it is exactly zero at step 0, and small updates
    survive a bfloat16 product, which A B - A0 B0 as two products would round away.
    """
    if initial is None or spec.form == "residual":
        return _scaled(adapters, spec.scale)
    now, start = traverse_util.flatten_dict(adapters), traverse_util.flatten_dict(initial)
    lora = {}
    for path in _layers(now):
        a, b, a0, b0 = (
            now[(*path, "a")],
            now[(*path, "b")],
            start[(*path, "a")],
            start[(*path, "b")],
        )
        lora[(*path, "a")] = jnp.concatenate([a - a0, a0], axis=-1)
        lora[(*path, "b")] = spec.scale * jnp.concatenate([b, b - b0], axis=-2)
    return traverse_util.unflatten_dict(lora)


def teacher_path(initial: Tree | None, spec: AdapterSpec) -> Tree:
    """The `lora` collection of the pre-trained model: nothing in the delta form, s A0 B0 in the residual form."""
    if initial is None or spec.form == "delta":
        return {}
    return _scaled(initial, spec.scale)


def merge(params: Tree, lora: Tree) -> Tree:
    """The frozen tree with W + a b in place of each adapted W, computed in float32, in W's dtype."""
    return _add_products(params, lora, 1.0)


def residual(params: Tree, initial: Tree, spec: AdapterSpec) -> Tree:
    """The frozen tree of the residual form: W_res = W - s A0 B0 (PiSSA, Meng et al., eq. 3)."""
    return _add_products(params, initial, -spec.scale)


def _layers(flat: Mapping[Path, Any]) -> list[Path]:
    return sorted({path[:-1] for path in flat})


def _scaled(adapters: Tree, scale: float) -> Tree:
    flat = traverse_util.flatten_dict(adapters)
    return traverse_util.unflatten_dict(
        {p: scale * leaf if p[-1] == "b" else leaf for p, leaf in flat.items()}
    )


def _add_products(params: Tree, factors: Tree, scale: float) -> Tree:
    flat, pairs = dict(traverse_util.flatten_dict(params)), traverse_util.flatten_dict(factors)
    for path in _layers(pairs):
        kernel = flat[(*path, "kernel")]
        product = jnp.matmul(pairs[(*path, "a")], pairs[(*path, "b")], precision="highest")
        flat[(*path, "kernel")] = (kernel.astype(jnp.float32) + scale * product).astype(
            kernel.dtype
        )
    return traverse_util.unflatten_dict(flat)
