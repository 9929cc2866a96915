"""Multi-head attention of queries to keys and values, and the choice of its implementation."""

from collections.abc import Callable

import jax
from jax.sharding import Mesh

from balora_jax.errors import BadInput
from balora_jax.models.layers import cudnn_attention, splash_attention
from balora_jax.models.layers.chunked_attention import attend_in_chunks
from balora_jax.models.layers.cudnn_attention import attend_by_cudnn
from balora_jax.models.layers.mask import AttentionMask
from balora_jax.models.layers.options import LayerOptions
from balora_jax.models.layers.plain_attention import attend_plainly
from balora_jax.models.layers.splash_attention import attend_by_splash

# From this many queries on, not all scores are computed at once.
LONG = 512
# The kernels of each platform.
KERNELS = {"gpu": "cudnn", "tpu": "splash"}


def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: AttentionMask,
    options: LayerOptions | None = None,
    *,
    scale: float,
    softcap: float | None = None,
    bias: jax.Array | None = None,
    dropout: Callable[[jax.Array], jax.Array] | None = None,
) -> jax.Array:
    """Compute softmax(cap(scale q k^T) + bias) v, the softmax in float32.

    Scaled dot-product attention (Vaswani et al., arXiv 1706.03762, equation 1), as
    `attend_plainly` defines it, by the implementation that `choose` returns.

    Args:
      query: [batch, queries, heads, D].
      key: [batch, keys, kv_heads, D]; kv_heads divides heads.
      value: [batch, keys, kv_heads, D].
      mask: the keys each query may attend to.
      options: the model's layer options, of which `attention` and `mesh` count.
      scale: factor of the scores, usually D ** -0.5.
      softcap: c of c * tanh(scores / c) (Gemma 2, arXiv 2408.00118, section 2), or None.
      bias: [batch or 1, heads, queries, keys] float32, added to the scores; or None.
      dropout: a function that drops elements of the attention weights; or None.

    Returns:
      [batch, queries, heads, D], of the value's element type.

    Raises:
      BadInput: the options ask for an implementation that lacks what the model needs.
    """
    options = options or LayerOptions()
    name = choose(
        query,
        key,
        mask,
        options,
        softcap=softcap,
        biased=bias is not None,
        dropping=dropout is not None,
    )
    if name == "splash":
        return attend_by_splash(
            query, key, value, mask, scale=scale, softcap=softcap, mesh=options.mesh
        )
    if name == "cudnn":
        return attend_by_cudnn(query, key, value, mask, scale=scale)
    if name == "chunked":
        return attend_in_chunks(query, key, value, mask, scale=scale, softcap=softcap, bias=bias)
    return attend_plainly(
        query, key, value, mask, scale=scale, softcap=softcap, bias=bias, dropout=dropout
    )


def choose(
    query: jax.Array,
    key: jax.Array,
    mask: AttentionMask,
    options: LayerOptions,
    *,
    softcap: float | None,
    biased: bool,
    dropping: bool,
) -> str:
    """Choose the implementation by the options, the device, the length and what is asked.

    `auto` is plain for short texts; for long ones the device's kernel, chunked where it does not
    cover what is asked, and plain where that has a bias, which is as large as the scores, or
    dropout. A name in the options is for the attention of texts to themselves: attention to a
    cache or to an encoder's output is chosen as under `auto`. Chunked stands in for a kernel where
    the shapes or the packing of a batch do not suit it.

    Args:
      query: [batch, queries, heads, D].
      key: [batch, keys, kv_heads, D].
      mask: the keys each query may attend to.
      options: the model's layer options.
      softcap: the cap of the scores, or None.
      biased: True if a bias is added to the scores.
      dropping: True if attention weights are dropped.

    Returns:
      "plain", "chunked", "cudnn" or "splash".

    Raises:
      BadInput: the options' implementation lacks what the model needs.
    """
    missing = {
        "plain": None,
        "chunked": "dropout of attention weights" if dropping else None,
        "cudnn": cudnn_attention.missing_feature(
            query, mask, softcap=softcap, biased=biased, dropping=dropping
        ),
        "splash": splash_attention.missing_feature(mask, biased=biased, dropping=dropping),
    }
    is_to_itself = query.shape[1] == key.shape[1]
    name = options.attention if is_to_itself else "auto"
    if name == "auto":
        if query.shape[1] < LONG or biased or dropping:
            return "plain"
        kernel = KERNELS.get(platform(options.mesh))
        name = kernel if kernel and not missing[kernel] else "chunked"
    elif missing[name]:
        others = [other for other in available(options.mesh) if not missing.get(other)]
        raise BadInput(
            f"model.attention is {name}, which has no {missing[name]}, as this model needs; "
            f"accepted for it here: {', '.join(others)}"
        )
    # The masks that fit are of texts to themselves.
    if name == "splash" and not splash_attention.fits(query, key, mask, options.mesh):
        return "chunked"
    if name == "cudnn" and not cudnn_attention.fits(mask):
        return "chunked"
    return name


def available(mesh: Mesh | None) -> list[str]:
    """List the values of `LayerOptions.attention` that devices have.

    Args:
      mesh: the devices; None for the default one.
    """
    kernel = KERNELS.get(platform(mesh))
    return ["auto", "plain", "chunked", *([kernel] if kernel else [])]


def check_attention(name: str, mesh: Mesh | None) -> None:
    """Check that devices have an implementation of attention.

    Args:
      name: the value of `model.attention`.
      mesh: the devices; None for the default one.

    Raises:
      BadInput: they do not.
    """
    names = available(mesh)
    if name not in names:
        raise BadInput(
            f"model.attention is {name}, which this machine's devices ({platform(mesh)}) lack; "
            f"accepted here: {', '.join(names)}"
        )


def attention_on(mesh: Mesh | None, name: str) -> str:
    """Return an implementation that devices have: the named one, or "auto" where they lack it.

    A run is read again on other devices than it was trained on.

    Args:
      mesh: the devices; None for the default one.
      name: the value of `model.attention`.
    """
    return name if name in available(mesh) else "auto"


def platform(mesh: Mesh | None) -> str:
    """Return the devices' platform, such as "cpu", "gpu" or "tpu"."""
    if mesh is None:
        return jax.default_backend()
    return mesh.devices.flat[0].platform


def split_heads(x: jax.Array, heads: int) -> jax.Array:
    """Reshape [batch, length, heads * D] to [batch, length, heads, D]."""
    return x.reshape(*x.shape[:-1], heads, -1)


def merge_heads(x: jax.Array) -> jax.Array:
    """Reshape [batch, length, heads, D] to [batch, length, heads * D]."""
    return x.reshape(*x.shape[:-2], -1)
