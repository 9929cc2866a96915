"""Adapters added to, or taken out of, the kernels that they adapt."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import traverse_util

from balora_jax.adapters.spec import AdapterSpec
from balora_jax.adapters.targets import adapted_leaf

Tree = Mapping[str, Any]


def merge(params: Tree, lora: Tree) -> Tree:
    """The parameters with W + A B in place of every adapted W (Hu et al., arXiv 2106.09685, eq. 3).

        params  {"q": {"kernel": W, "bias": c}, "o": {"kernel": V}}
        lora    {"q": {"a": A, "b": B}}
        result  {"q": {"kernel": W + A B, "bias": c}, "o": {"kernel": V}}

    Args:
      params: nested dict with a `kernel`, [in, out] or [layers, in, out], or an `embedding` at
        every path of `lora`.
      lora: {a, b} tree with the scale folded into b, as from `student_lora`.

    Returns:
      A tree like `params`. Sums are computed in float32; kernels keep their dtype.
    """
    return _add_products(params, lora, 1.0)


def residual(params: Tree, initial: Tree, spec: AdapterSpec) -> Tree:
    """The frozen parameters of the residual form, W_res = W - s A0 B0 (arXiv 2404.02948, eq. 4).

        params   {"q": {"kernel": W, "bias": c}, "o": {"kernel": V}}
        initial  {"q": {"a": A0, "b": B0}}
        result   {"q": {"kernel": W - s A0 B0, "bias": c}, "o": {"kernel": V}}

    Args:
      params: nested dict with a `kernel`, [in, out] or [layers, in, out], at every path of
        `initial`.
      initial: {a, b} tree of step 0.
      spec: gives the scale s.

    Returns:
      A tree like `params`. Differences are computed in float32; kernels keep their dtype.
    """
    return _add_products(params, initial, -spec.scale)


def _add_products(params: Tree, factors: Tree, scale: float) -> Tree:
    flat = dict(traverse_util.flatten_dict(params))
    pairs = traverse_util.flatten_dict(factors)
    for path in sorted({path[:-1] for path in pairs}):
        leaf = adapted_leaf(flat, path)
        kernel = flat[leaf]
        product = jnp.matmul(pairs[(*path, "a")], pairs[(*path, "b")], precision="highest")
        merged = kernel.astype(jnp.float32) + scale * product
        flat[leaf] = merged.astype(kernel.dtype)
    return traverse_util.unflatten_dict(flat)
