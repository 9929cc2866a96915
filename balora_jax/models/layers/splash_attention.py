"""Attention by the Pallas kernel of JAX for TPUs, splash attention."""

import functools
import math

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from balora_jax.models.layers.mask import AttentionMask

# A kernel's block is a multiple of a TPU's lanes.
BLOCKS = (512, 256, 128)
HEAD_AXIS = "tensor"

# jax's names for products that are rounded to tf32, or to its like on TPUs.
TF32 = ("tensorfloat32", "high", "bfloat16_3x")


def missing_feature(mask: AttentionMask, *, biased: bool, dropping: bool) -> str | None:
    """Name what the model asks for and the kernel lacks; None if nothing.

    Args:
      mask: the keys each query may attend to.
      biased: True if a bias is added to the scores.
      dropping: True if attention weights are dropped.
    """
    if biased:
        return "bias of the scores"
    if dropping:
        return "dropout of attention weights"
    if mask.window is not None and not isinstance(mask.window, int):
        return "windows that differ between layers"
    return None


def fits(query: jax.Array, key: jax.Array, mask: AttentionMask, mesh: Mesh | None) -> bool:
    """Return True if the kernel covers the mask and the mesh divides the arrays.

    Args:
      query: [batch, length, heads, D].
      key: [batch, length, kv_heads, D].
      mask: the keys each query may attend to.
      mesh: the devices that the arrays are divided over; None for one.
    """
    # Only an ordered mask says that the queries are the keys' tokens.
    if not mask.is_ordered or mask.query_mask is not None or mask.key_ends is not None:
        return False
    # Its products are at one of two precisions.
    if jax.config.jax_default_matmul_precision in TF32 and query.dtype == jnp.float32:
        return False
    if mesh is None:
        return True
    batch_devices = math.prod(mesh.shape[axis] for axis in _batch_axes(mesh))
    return not (query.shape[0] % batch_devices or key.shape[2] % mesh.shape.get(HEAD_AXIS, 1))


def attend_by_splash(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: AttentionMask,
    *,
    scale: float,
    softcap: float | None = None,
    mesh: Mesh | None = None,
    interpret: bool = False,
) -> jax.Array:
    """Compute attention by the kernel, which visits no block outside the causal mask or window.

    Padding is a segment of its own: a token of it attends to padding, where the plain form has it
    attend to tokens. Nothing reads its output.

    Args:
      query: [batch, length, heads, D].
      key: [batch, length, kv_heads, D].
      value: [batch, length, kv_heads, D].
      mask: the keys each query may attend to, with a window that is an int or None; see `fits`.
      scale: factor of the scores.
      softcap: c of c * tanh(scores / c), or None.
      mesh: the devices that batch and heads are divided over; None for one.
      interpret: True to run the kernel without a TPU, slowly.

    Returns:
      [batch, length, heads, D], of the value's element type.
    """
    attention = functools.partial(
        _attend,
        is_causal=mask.is_causal,
        window=mask.window,
        softcap=softcap,
        interpret=interpret,
    )
    segments = jnp.where(mask.key_mask, 1, 0)
    if mask.query_segment_ids is not None:
        # Segment 0 is that of padding.
        segments = jnp.where(mask.key_mask, mask.query_segment_ids + 1, 0)
    # The kernel has no factor of its own.
    query = (scale * query.astype(jnp.float32)).astype(query.dtype)
    if mesh is None:
        return attention(query, key, value, segments)
    batch_axes = _batch_axes(mesh)
    heads = P(batch_axes, None, HEAD_AXIS if HEAD_AXIS in mesh.shape else None, None)
    return jax.shard_map(
        attention,
        mesh=mesh,
        in_specs=(heads, heads, heads, P(batch_axes, None)),
        out_specs=heads,
        check_vma=False,
    )(query, key, value, segments)


def _batch_axes(mesh: Mesh) -> tuple[str, ...]:
    return tuple(axis for axis in mesh.axis_names if axis != HEAD_AXIS)


def _attend(query, key, value, segments, *, is_causal, window, softcap, interpret):
    """Attend on one device, with the length filled up to whole blocks."""
    length = query.shape[1]
    missing = -length % BLOCKS[-1]
    segments = jnp.pad(segments, [(0, 0), (0, missing)])
    query, key, value = [_pad_and_transpose(x, missing) for x in (query, key, value)]
    kernel = _kernel(query.shape[1], length + missing, is_causal, window, softcap, interpret)
    output = jax.vmap(kernel)(query, key, value, segments)
    return output.transpose(0, 2, 1, 3)[:, :length].astype(value.dtype)


def _pad_and_transpose(x: jax.Array, missing: int) -> jax.Array:
    """[batch, length, heads, D] -> [batch, heads, padded length, D]."""
    return jnp.pad(x, [(0, 0), (0, missing), (0, 0), (0, 0)]).transpose(0, 2, 1, 3)


def _kernel(heads, length, is_causal, window, softcap, interpret):
    """Make the kernel: [heads, length, D], keys, values, segment ids [length] -> [heads, ...]."""
    # Pallas takes half a second to import, and only a TPU needs it.
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    shape = (length, length)
    mask = splash.FullMask(shape)
    if is_causal:
        mask = splash.CausalMask(shape)
    if window is not None:
        mask = splash.LocalMask(shape, (window - 1, 0), offset=0)
    block = next(block for block in BLOCKS if length % block == 0)
    attend = splash.make_splash_mha(
        splash.MultiHeadMask([mask] * heads),
        block_sizes=splash.BlockSizes(*[block] * 8),
        attn_logits_soft_cap=softcap,
        head_shards=1,
        q_seq_shards=1,
        interpret=interpret,
    )

    def kernel(query, key, value, segments):
        return attend(query, key, value, splash.SegmentIds(segments, segments))

    return kernel
