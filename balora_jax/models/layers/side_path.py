"""The side path of an adapter beside a layer: (x A) B, or the difference of two such products.

LoRA (Hu et al., arXiv 2106.09685, equation 3). A layer's adapter is {a, b} with the scale folded
into b, or, while an adapter with a start is trained, {a, b, a0, b0, scale} (see
`adapters.trained_lora`). With a0 and b0 the side path is

    scale (A B - A0 B0) = [A - A0 | A0] scale [B ; B - B0],

a product of twice the rank. Its gradients, x^T g B^T and (x A)^T g, have the rank itself: half as
much to compute, and to add up over devices, as the gradients of the wide factors.
"""

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import DTypeLike

from balora_jax.models.layers.gathering import gathered


def side_path(
    mesh: Mesh | None, out_dtype: DTypeLike | None, x: jax.Array, lora: Mapping[str, jax.Array]
) -> jax.Array:
    """Compute what an adapter adds to a layer's output.

    The products are those of the element type of x. The factors' gradients are summed over the
    tokens, and over devices, in the factors' own; a0, b0 and scale have none.

    Args:
      mesh: the devices that the factors are divided over, to gather them; None to leave that to
        XLA.
      out_dtype: element type of the result, or None for that of x.
      x: [..., in].
      lora: a [in, rank] and b [rank, out]; a0 and b0 alike and scale [], or none of the three.

    Returns:
      [..., out].
    """
    down = _times_a(mesh, x, lora["a"], lora.get("a0"))
    return _times_b(mesh, out_dtype, down, lora["b"], lora.get("b0"), lora.get("scale"))


def side_path_of_rows(ids: jax.Array, dtype: DTypeLike, lora: Mapping[str, jax.Array]) -> jax.Array:
    """Compute what an adapter adds to rows of an embedding.

    Args:
      ids: int32 [...], the rows.
      dtype: element type of the products and of the result.
      lora: as for `side_path`, of the table [rows, size].

    Returns:
      [..., size].
    """
    a, a0 = (jnp.take(lora[name], ids, axis=0) if name in lora else None for name in ("a", "a0"))
    wide_b = _wide_b(lora["b"], lora.get("b0"), lora.get("scale"))
    return _wide_a(a, a0).astype(dtype) @ wide_b.astype(dtype)


def _wide_a(a: jax.Array, a0: jax.Array | None) -> jax.Array:
    return a if a0 is None else jnp.concatenate([a - a0, a0], axis=-1)


def _wide_b(b: jax.Array, b0: jax.Array | None, scale: jax.Array | None) -> jax.Array:
    return b if b0 is None else scale * jnp.concatenate([b, b - b0], axis=-2)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _times_a(mesh: Mesh | None, x: jax.Array, a: jax.Array, a0: jax.Array | None) -> jax.Array:
    """[..., in] -> [..., rank], or [..., 2 rank] with a0.

    The gradient of a is x^T @ gradient. The default one is (gradient^T @ x)^T, for which a CPU
    copies the wide side transposed: with the activation's derivative fused into that copy, it takes
    longer than the layer's other products.
    """
    return x @ gathered(mesh, _wide_a(a, a0).astype(x.dtype))


def _times_a_forward(mesh, x, a, a0):
    return _times_a(mesh, x, a, a0), (x, a, a0)


def _times_a_backward(mesh, saved, gradient):
    x, a, a0 = saved
    whole = gathered(mesh, _wide_a(a, a0).astype(x.dtype))
    x_gradient = jnp.matmul(gradient, whole.T, preferred_element_type=x.dtype)
    rank = a.shape[-1]
    return x_gradient, _summed_over_tokens(x, gradient[..., :rank], a.dtype), None


_times_a.defvjp(_times_a_forward, _times_a_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _times_b(
    mesh: Mesh | None,
    out_dtype: DTypeLike | None,
    down: jax.Array,
    b: jax.Array,
    b0: jax.Array | None,
    scale: jax.Array | None,
) -> jax.Array:
    """[..., rank], or [..., 2 rank] with b0 -> [..., out]."""
    whole = gathered(mesh, _wide_b(b, b0, scale).astype(down.dtype))
    return jnp.matmul(down, whole, preferred_element_type=out_dtype)


def _times_b_forward(mesh, out_dtype, down, b, b0, scale):
    return _times_b(mesh, out_dtype, down, b, b0, scale), (down, b, b0, scale)


def _times_b_backward(mesh, out_dtype, saved, gradient):
    down, b, b0, scale = saved
    whole = gathered(mesh, _wide_b(b, b0, scale).astype(down.dtype))
    down_gradient = jnp.matmul(gradient, whole.T, preferred_element_type=down.dtype)
    if b0 is None:
        return down_gradient, _summed_over_tokens(down, gradient, b.dtype), None, None
    rank = b.shape[-2]
    # x (A - A0) + x A0
    times_a = down[..., :rank] + down[..., rank:]
    b_gradient = scale * _summed_over_tokens(times_a, gradient, b.dtype)
    return down_gradient, b_gradient, None, None


_times_b.defvjp(_times_b_forward, _times_b_backward)


def _summed_over_tokens(x: jax.Array, gradient: jax.Array, dtype: DTypeLike) -> jax.Array:
    """x^T @ gradient: [..., n] and [..., m] -> [n, m] of an element type."""
    token_axes = tuple(range(x.ndim - 1))
    return jnp.tensordot(x, gradient, (token_axes, token_axes), preferred_element_type=dtype)
