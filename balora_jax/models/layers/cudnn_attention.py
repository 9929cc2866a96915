"""Attention by cuDNN's kernels for NVIDIA GPUs."""

import jax
import jax.numpy as jnp

from balora_jax.models.layers.chunked_attention import attend_in_chunks
from balora_jax.models.layers.mask import AttentionMask

# Of all GPUs that have the kernels; those since Hopper take 256.
LARGEST_HEAD = 128


def missing_feature(
    query: jax.Array,
    mask: AttentionMask,
    *,
    softcap: float | None,
    biased: bool,
    dropping: bool,
) -> str | None:
    """Name what the model asks for and the kernels lack; None if nothing.

    Args:
      query: [batch, length, heads, D].
      mask: the keys each query may attend to.
      softcap: the cap of the scores, or None.
      biased: True if a bias is added to the scores.
      dropping: True if attention weights are dropped.
    """
    size = query.shape[-1]
    missing = {
        "soft cap of the scores": softcap is not None,
        "bias of the scores": biased,
        "dropout of attention weights": dropping,
        "float32 (training.precision)": query.dtype not in (jnp.bfloat16, jnp.float16),
        f"heads of size {size}": size > LARGEST_HEAD or size % 8 != 0,
        "windows that differ between layers": not isinstance(mask.window, int | None),
    }
    return next((feature for feature, is_asked in missing.items() if is_asked), None)


def fits(mask: AttentionMask) -> bool:
    """Return True if the kernels cover the mask in memory that is linear in the length."""
    conditions = (mask.query_mask, mask.key_ends, mask.query_segment_ids)
    # Only an ordered mask says that the queries are the keys' tokens.
    return mask.is_ordered and all(condition is None for condition in conditions)


def attend_by_cudnn(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: AttentionMask, *, scale: float
) -> jax.Array:
    """Compute attention by cuDNN where the batch's padding is on the right, else in chunks.

    Args:
      query: [batch, length, heads, D], bfloat16 or float16.
      key: [batch, length, kv_heads, D].
      value: [batch, length, kv_heads, D].
      mask: the keys each query may attend to, with a window that is an int or None; see `fits`.
      scale: factor of the scores.

    Returns:
      [batch, length, heads, D], of the value's element type.
    """
    lengths = jnp.sum(mask.key_mask, axis=-1, dtype=jnp.int32)

    def by_kernel(query, key, value):
        window = None if mask.window is None else (mask.window - 1, 0)
        # Causal attention sees no padding that is on the right.
        return jax.nn.dot_product_attention(
            query,
            key,
            value,
            scale=scale,
            is_causal=mask.is_causal,
            query_seq_lengths=None if mask.is_causal else lengths,
            key_value_seq_lengths=None if mask.is_causal else lengths,
            local_window_size=window,
            implementation="cudnn",
        )

    def in_chunks(query, key, value):
        return attend_in_chunks(query, key, value, mask, scale=scale)

    index = jnp.arange(mask.key_mask.shape[1])
    on_the_right = jnp.all(mask.key_mask == (index < lengths[:, None]))
    return jax.lax.cond(on_the_right, by_kernel, in_chunks, query, key, value)
