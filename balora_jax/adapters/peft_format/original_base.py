"""PEFT's PiSSA and OLoRA adapters as LoRA on the original base.

PEFT takes the initial factors out of the base, W_res = W - s B0 A0, and saves A and B alone. On the
original base their function is the LoRA s (B A - B0 A0) of twice the rank. B0 A0 is the best
rank-r approximation of W (PiSSA), or the projection of W on its first r columns (OLoRA), so it is
computed from W again, as PEFT does when it loads such an adapter. What a base in bfloat16 lost when
PEFT rounded W_res is not restored.
"""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from balora_jax.adapters.peft_format.layers import Product
from balora_jax.adapters.peft_format.names import CONFIG
from balora_jax.adapters.peft_format.settings import CONVERSION
from balora_jax.adapters.targets import Path, dotted
from balora_jax.errors import BadInput
from balora_jax.hosts import on_host

# The layers of each adapted kernel; None of a layer without factors.
Products = Mapping[Path, Sequence[Product | None]]
# Initial factors count as determined if singular value r exceeds the next one (PiSSA), or the first
# columns are independent (OLoRA), by more than this many roundings of the largest: three digits.
ROUNDINGS = 1000
TINY = np.finfo(np.float32).tiny


def check_kernels(
    folder: pathlib.Path, params: Mapping[str, Any], start: str, products: Products
) -> None:
    """Check that the initial factors can be computed from kernels of this type and shape.

    Args:
      folder: PEFT's folder, for messages.
      params: frozen parameters or their shapes.
      start: pissa or olora.
      products: of the layers of each adapted kernel.

    Raises:
      BadInput: the kernels are not float32, or the rank exceeds a kernel's smaller side.
    """
    kernels = traverse_util.flatten_dict(params)
    for path in sorted(products):
        kernel = kernels[(*path, "kernel")]
        if kernel.dtype != np.float32:
            raise BadInput(
                f"{folder / CONFIG}: init_lora_weights is {start!r}, whose initial factors are "
                f"computed from the stored weights, and {dotted(path)} is {kernel.dtype}; "
                "accepted: model.dtype float32"
            )
        rank = max(product.rank for product in products[path] if product)
        if rank > min(kernel.shape[-2:]):
            raise BadInput(
                f"{folder / CONFIG}: init_lora_weights is {start!r} and r is {rank}; "
                f"accepted: at most {min(kernel.shape[-2:])}, the smaller side of {dotted(path)}"
            )


def on_original_base(
    folder: pathlib.Path,
    lora: Mapping[str, Any],
    params: Mapping[str, Any],
    start: str,
    products: Products,
) -> Mapping[str, Any]:
    """Convert factors of a base without its initial factors.

    Args:
      folder: PEFT's folder, for messages.
      lora: {a, b} at each target, with the scale folded into b.
      params: frozen parameters: the original base.
      start: pissa or olora.
      products: of the layers of each adapted kernel.

    Returns:
      [A - A0 | A0] and [B ; B - B0] at each target: the product is A B - A0 B0, with the
      differences taken before the products.

    Raises:
      BadInput: the initial factors of a kernel are not determined in float32.
    """
    flat = traverse_util.flatten_dict(lora)
    kernels = traverse_util.flatten_dict(params)
    converted = {}
    for path in sorted(products):
        a = flat[(*path, "a")]
        b = flat[(*path, "b")]
        kernel = on_host(kernels[(*path, "kernel")])
        layers = kernel if kernel.ndim == 3 else kernel[None]
        rank = a.shape[-1]
        pairs = [
            _padded(rank, *_initial(folder, path, layer, start, product))
            for layer, product in zip(layers, products[path], strict=True)
        ]
        a0 = np.stack([pair[0] for pair in pairs]).reshape(a.shape)
        b0 = np.stack([pair[1] for pair in pairs]).reshape(b.shape)
        a0, b0 = _with_signs_of(a, b, a0, b0)
        converted[(*path, "a")] = np.concatenate([a - a0, a0], axis=-1)
        converted[(*path, "b")] = np.concatenate([b, b - b0], axis=-2)
    return traverse_util.unflatten_dict(converted)


def _initial(
    folder: pathlib.Path, path: Path, kernel: np.ndarray, start: str, product: Product | None
) -> tuple[np.ndarray, np.ndarray]:
    """The part that PEFT took out of a kernel [in, out], as A0 [in, r] and s B0 [r, out]."""
    if product is None:
        fan_in, fan_out = kernel.shape
        return np.zeros((fan_in, 0), np.float32), np.zeros((0, fan_out), np.float32)
    rank, scale = product
    factorize = _principal if start == "pissa" else _first_columns
    with jax.default_matmul_precision("highest"):
        a, b, gap = factorize(kernel, rank)
    # A comparison with nan, from a kernel that is not finite, is false.
    if not gap > ROUNDINGS * np.finfo(np.float32).eps:
        raise BadInput(
            f"{folder / CONFIG}: init_lora_weights is {start!r}, and the initial "
            f"factors of {dotted(path)} are not determined to float32's precision at r {rank}; "
            f"accepted: {CONVERSION}"
        )
    if start == "olora":
        return a, scale * b
    return a / math.sqrt(scale), math.sqrt(scale) * b


def _padded(rank: int, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The factors, filled up with zeros to a rank."""
    missing = rank - a.shape[1]
    return np.pad(a, ((0, 0), (0, missing))), np.pad(b, ((0, missing), (0, 0)))


def _principal(kernel: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray, float]:
    """The best rank-r approximation, and how far it is from another one, relative."""
    u, s, vt = (np.asarray(part) for part in jnp.linalg.svd(kernel, full_matrices=False))
    root = np.sqrt(s[:rank])
    # Of full rank the approximation is the kernel.
    gap = 1.0 if rank == len(s) else (s[rank - 1] - s[rank]) / max(s[0], TINY)
    return u[:, :rank] * root, root[:, None] * vt[:rank], gap


def _first_columns(kernel: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray, float]:
    """The projection on the first r rows of the kernel, and how independent they are, relative."""
    q, r = (np.asarray(part) for part in jnp.linalg.qr(kernel.T))
    sizes = np.abs(np.diagonal(r))[:rank]
    return r[:rank].T, q[:, :rank].T, sizes.min() / max(sizes.max(), TINY)


def _with_signs_of(
    a: np.ndarray, b: np.ndarray, a0: np.ndarray, b0: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """A0 and B0 with the sign of each of their products' terms that is closer to A and B."""
    with np.errstate(over="ignore", invalid="ignore"):
        agreement = (a * a0).sum(-2) + (b * b0).sum(-1)
    signs = np.where(agreement < 0, np.float32(-1), np.float32(1))
    return a0 * signs[..., None, :], b0 * signs[..., :, None]
