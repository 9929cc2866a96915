"""Adapters added to, or taken out of, the kernels that they adapt."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
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
        flat[leaf] = add_product(flat[leaf], pairs[(*path, "a")], pairs[(*path, "b")], scale)
    return traverse_util.unflatten_dict(flat)


@dataclasses.dataclass(frozen=True)
class MergedKernel:
    """A kernel with its adapter added, W + A B, of which one layer is computed when it is read.

    Attributes:
      kernel: W, [in, out] or [layers, ..., in, out].
      a: A, [in, r] or [layers, ..., in, r].
      b: B with the scale folded in, [r, out] or [layers, ..., r, out].
    """

    kernel: jax.Array
    a: jax.Array
    b: jax.Array

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the kernel."""
        return self.kernel.shape

    @property
    def size(self) -> int:
        """The number of elements of the kernel."""
        return self.kernel.size

    @property
    def dtype(self) -> jnp.dtype:
        """The element type of the kernel."""
        return self.kernel.dtype

    def __getitem__(self, layer: tuple[int, ...]) -> jax.Array:
        """Return one merged layer, [in, out]."""
        return _merge_layer(self.kernel[layer], self.a[layer], self.b[layer])


def merged_when_read(params: Tree, lora: Tree) -> Tree:
    """The parameters with a `MergedKernel` in place of every adapted kernel; computes nothing.

        params  {"q": {"kernel": W, "bias": c}, "o": {"kernel": V}}
        lora    {"q": {"a": A, "b": B}}
        result  {"q": {"kernel": MergedKernel(W, A, B), "bias": c}, "o": {"kernel": V}}

    Args:
      params: as for `merge`.
      lora: as for `merge`.
    """
    flat = dict(traverse_util.flatten_dict(params))
    factors = traverse_util.flatten_dict(lora)
    for path in sorted({path[:-1] for path in factors}):
        leaf = adapted_leaf(flat, path)
        flat[leaf] = MergedKernel(flat[leaf], factors[(*path, "a")], factors[(*path, "b")])
    return traverse_util.unflatten_dict(flat)


def add_product(kernel: jax.Array, a: jax.Array, b: jax.Array, scale: float = 1.0) -> jax.Array:
    """Return W + s A B, of a stack one layer after the other.

    A stack is overwritten if it is donated to the jit that this is called in, and beside it there
    is one layer in float32 at a time.

    Args:
      kernel: W, [in, out] or [layers, ..., in, out].
      a: A, [in, r] or [layers, ..., in, r].
      b: B, [r, out] or [layers, ..., r, out].
      scale: s.

    Returns:
      An array like `kernel`. The sum is computed in float32.
    """

    def summed(kernel: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
        product = jnp.matmul(a, b, precision="highest")
        return (kernel.astype(jnp.float32) + scale * product).astype(kernel.dtype)

    def replace_layer(layer: int, stack: jax.Array) -> jax.Array:
        return stack.at[layer].set(summed(stack[layer], a[layer], b[layer]))

    kernel, a, b = (jnp.asarray(array) for array in (kernel, a, b))
    if kernel.ndim == 2:
        return summed(kernel, a, b)
    return jax.lax.fori_loop(0, kernel.shape[0], replace_layer, kernel)


_merge_layer = jax.jit(add_product)
