"""Reading a PEFT folder: the factors as a `lora` collection, and the modules trained whole."""

import functools
import pathlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax
import ml_dtypes
import numpy as np
from flax import traverse_util

from balora_jax.adapters.peft_format.factors import read_factors
from balora_jax.adapters.peft_format.files import require_file
from balora_jax.adapters.peft_format.names import BASE_END, CONFIG, layer_names, module_name
from balora_jax.adapters.peft_format.original_base import on_original_base
from balora_jax.adapters.peft_format.settings import read_settings
from balora_jax.adapters.peft_format.tensors import Tensors, read_tensors
from balora_jax.adapters.targets import adapted_leaf, embedding_tables, linear_kernels
from balora_jax.errors import BadInput, listed, shown
from balora_jax.hosts import on_host

Tree = Mapping[str, Any]
WEIGHT_END = ".weight"
# Types that a base may have been rounded to when the adapter was trained.
ROUNDED = (np.float32, ml_dtypes.bfloat16, np.float16)


def load_adapter(folder: str | pathlib.Path, params: Tree) -> Tree:
    """Read a PEFT LoRA folder as a `lora` collection for `params`.

    The modules that were trained whole are not in it; `load_whole_modules` reads them. A warning
    names those that `params` has with other values.

    Args:
      folder: PEFT's folder.
      params: frozen parameters of the model to adapt. For an adapter that PEFT started by pissa or
        olora and saved without conversion they must be the original base's, in float32.

    Returns:
      {a, b} at every adapted path: a [..., in, r] and b [..., r, out], float32, with the scale
      folded into b. r is the largest rank of a layer: zeros fill up those of smaller ranks, and
      layers without factors. Of a pissa or olora adapter r is twice PEFT's.

    Raises:
      BadInput: a file is missing or damaged, the adapter is no plain LoRA on the original base, or
        its layers are not those of `params`, or it was saved with other weights of them.
    """
    folder = pathlib.Path(folder)
    settings, tensors, products, lora = read_factors(folder, params)
    _check_bases(tensors, params)
    changed = _other_values(tensors.whole, params)
    if changed:
        warnings.warn(
            f"{folder} has modules that were trained whole, which params has with other values: "
            f"{listed(changed)}; load_run reads a run with them",
            stacklevel=2,
        )
    if settings.recomputed is not None:
        lora = on_original_base(folder, lora, params, settings.recomputed, products)
    return lora


def adapter_shapes(folder: str | pathlib.Path, params: Tree) -> Tree:
    """Check a PEFT LoRA folder, and return the shapes of what `load_adapter` will return.

    Args:
      folder: PEFT's folder.
      params: frozen parameters of the model to adapt, or their shapes.

    Returns:
      {a, b} at every adapted path, as jax.ShapeDtypeStruct.

    Raises:
      BadInput: as for `load_adapter`.
    """
    factors = read_factors(pathlib.Path(folder), params)
    ranks = 1 if factors.settings.recomputed is None else 2
    shapes = {}
    for path, leaf in traverse_util.flatten_dict(factors.lora).items():
        shape = list(leaf.shape)
        shape[-1 if path[-1] == "a" else -2] *= ranks
        shapes[path] = jax.ShapeDtypeStruct(tuple(shape), leaf.dtype)
    return traverse_util.unflatten_dict(shapes)


def load_whole_modules(folder: str | pathlib.Path) -> dict[str, np.ndarray]:
    """Read the tensors of the modules that were trained whole, such as a classifier's head.

    Args:
      folder: PEFT's folder.

    Returns:
      {Hugging Face's name: tensor}, float32; empty for an adapter of factors alone.

    Raises:
      BadInput: the file is missing or damaged.
    """
    return read_tensors(pathlib.Path(folder)).whole


def module_names(folder: str | pathlib.Path) -> list[str]:
    """List Hugging Face's names of the modules that an adapter changes: by factors, or as a whole.

    Args:
      folder: PEFT's folder.

    Raises:
      BadInput: the file is missing or damaged.
    """
    require_file(pathlib.Path(folder), CONFIG)
    tensors = read_tensors(pathlib.Path(folder))
    names = dict.fromkeys([*tensors.factors, *tensors.whole])
    return list(dict.fromkeys(module_name(name) for name in names))


def conversion_note(folder: str | pathlib.Path) -> str | None:
    """Return a sentence for a person if `load_adapter` takes initial factors out of an adapter.

    Args:
      folder: PEFT's folder.

    Raises:
      BadInput: the folder's options cannot be used.
    """
    settings = read_settings(pathlib.Path(folder))
    if settings.recomputed is None:
        return None
    rank = "twice its ranks" if settings.ranks else f"rank {2 * settings.rank}"
    return (
        f"{folder} was started by PEFT's {settings.recomputed} and saved without conversion: read "
        f"as a LoRA of {rank} on the original base (if model.source is the "
        f"changed base that it was trained on, set init_lora_weights to true in {CONFIG})"
    )


def _check_bases(tensors: Tensors, params: Tree) -> None:
    """Refuse an adapter that was saved with other weights of the base than those of `params`."""
    known = _layer_weights(params) if tensors.bases else {}
    for name, stored in tensors.bases.items():
        layer = name.removesuffix(BASE_END)
        if layer not in known:
            raise BadInput(
                f"{tensors.path} has {shown(name)}, which is no weight of a layer of this model; "
                "accepted: the base's weights of its adapted layers, or none"
            )
        if not _is_same(stored, known[layer]()):
            raise BadInput(
                f"{tensors.path}: {shown(name)} differs from the weights of this model: the "
                "adapter belongs to a changed base; accepted: the base that it was trained on"
            )


def _other_values(whole: Mapping[str, np.ndarray], params: Tree) -> list[str]:
    """The layers that were trained whole and of which `params` has other weights."""
    known = _layer_weights(params) if whole else {}
    layers = {name.removesuffix(WEIGHT_END): stored for name, stored in whole.items()}
    return [
        layer
        for layer, stored in layers.items()
        if layer in known and not _is_same(stored, known[layer]())
    ]


def _layer_weights(params: Tree) -> dict[str, Callable[[], np.ndarray]]:
    """Functions that read the weights of layers and embeddings, by Hugging Face's names."""
    flat = traverse_util.flatten_dict(params)
    weights = {}
    for path, shape in (linear_kernels(params) | embedding_tables(params)).items():
        leaf = adapted_leaf(flat, path)
        for layer, name in enumerate(layer_names(path, shape)):
            weights[name] = functools.partial(
                _weight, flat[leaf], layer if len(shape) == 3 else None, leaf[-1] == "kernel"
            )
    return weights


def _weight(array: Any, layer: int | None, is_kernel: bool) -> np.ndarray:
    """The weight of a layer as PEFT has it, [out, in]; an embedding as it is."""
    weight = on_host(array if layer is None else array[layer])
    return weight.T if is_kernel else weight


def _is_same(stored: np.ndarray, base: np.ndarray) -> bool:
    """Return True if the arrays are equal, if need be after rounding."""
    if stored.shape != base.shape:
        return False
    return any(np.array_equal(stored.astype(kind), base.astype(kind)) for kind in ROUNDED)
