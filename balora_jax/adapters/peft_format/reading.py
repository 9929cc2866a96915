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

from balora_jax.adapters.peft_format.files import require_file
from balora_jax.adapters.peft_format.names import (
    A_END,
    B_END,
    BASE_END,
    CONFIG,
    EMBEDDING_A_END,
    EMBEDDING_B_END,
    factor_names,
    layer_names,
)
from balora_jax.adapters.peft_format.original_base import check_kernels, on_host, on_original_base
from balora_jax.adapters.peft_format.settings import Settings, read_settings
from balora_jax.adapters.peft_format.tensors import Tensors, read_tensors
from balora_jax.adapters.targets import adapted_leaf, embedding_tables, linear_kernels
from balora_jax.errors import BadInput, listed, shown

Tree = Mapping[str, Any]
WEIGHT_END = ".weight"
ENDS = (A_END, B_END, EMBEDDING_A_END, EMBEDDING_B_END, BASE_END)
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
      folded into b. Of a pissa or olora adapter r is twice PEFT's.

    Raises:
      BadInput: a file is missing or damaged, the adapter is no plain LoRA on the original base, or
        its layers are not those of `params`, or it was saved with other weights of them.
    """
    folder = pathlib.Path(folder)
    settings, lora = _read(folder, params)
    tensors = read_tensors(folder)
    _check_bases(tensors, params)
    changed = _other_values(tensors.whole, params)
    if changed:
        warnings.warn(
            f"{folder} has modules that were trained whole, which params has with other values: "
            f"{listed(changed)}; load_run reads a run with them",
            stacklevel=2,
        )
    if settings.recomputed is not None:
        lora = on_original_base(folder, lora, params, settings)
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
    settings, lora = _read(pathlib.Path(folder), params)
    ranks = 1 if settings.recomputed is None else 2
    shapes = {}
    for path, leaf in traverse_util.flatten_dict(lora).items():
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
    return list(dict.fromkeys(_module_name(name) for name in names))


def _module_name(name: str) -> str:
    end = next((end for end in ENDS if name.endswith(end)), None)
    return name.rpartition(".")[0] if end is None else name.removesuffix(end)


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
    return (
        f"{folder} was started by PEFT's {settings.recomputed} and saved without conversion: read "
        f"as a LoRA of rank {2 * settings.rank} on the original base (if model.source is the "
        f"changed base that it was trained on, set init_lora_weights to true in {CONFIG})"
    )


def _read(folder: pathlib.Path, params: Tree) -> tuple[Settings, Tree]:
    """Read the factors as PEFT stored them, with the scale folded into b."""
    settings = read_settings(folder)
    tensors = read_tensors(folder)
    lora = {}
    adapted = []
    tables = embedding_tables(params)
    for path, shape in (linear_kernels(params) | tables).items():
        is_stacked = len(shape) == 3
        layers = range(shape[0]) if is_stacked else [None]
        pairs = [factor_names(path, layer, of_embedding=path in tables) for layer in layers]
        if not _is_adapted(tensors, pairs):
            continue
        if path in tables and settings.recomputed is not None:
            raise BadInput(
                f"{folder / CONFIG}: init_lora_weights is {settings.recomputed!r} and "
                f"{pairs[0][0]} is of an embedding; accepted: factors of linear layers alone"
            )
        fan_in, fan_out = shape[-2:]
        a = [_factor(tensors, name, (settings.rank, fan_in)) for name, _ in pairs]
        b = [_factor(tensors, name, (fan_out, settings.rank)) for _, name in pairs]
        lora[(*path, "a")] = np.stack(a) if is_stacked else a[0]
        lora[(*path, "b")] = _scaled(tensors, np.stack(b) if is_stacked else b[0], settings.scale)
        adapted += pairs
    _check_names(folder, tensors, settings, adapted)
    tree = traverse_util.unflatten_dict(lora)
    if settings.recomputed is not None:
        check_kernels(folder, tree, params, settings)
    return settings, tree


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


def _is_adapted(tensors: Tensors, pairs: list[tuple[str, str]]) -> bool:
    """Return True if the layers of a kernel have factors; they all must have both, or none any."""
    wanted = [name for pair in pairs for name in pair]
    missing = [name for name in wanted if name not in tensors.factors]
    if missing and len(missing) < len(wanted):
        listed = ", ".join(missing[:5])
        raise BadInput(
            f"{tensors.path} lacks {listed}; accepted: lora_A and lora_B of every layer of a kind, "
            "or of none"
        )
    return not missing


def _factor(tensors: Tensors, name: str, shape: tuple[int, int]) -> np.ndarray:
    """A factor, transposed to our order; the file's shape is [r, in] or [out, r]."""
    factor = tensors.factors[name]
    if factor.shape != shape:
        raise BadInput(
            f"{tensors.path}: {name} is of shape {list(factor.shape)}; accepted: {list(shape)}, "
            f"for r in {CONFIG} and the model's layer"
        )
    return np.ascontiguousarray(factor.T)


def _scaled(tensors: Tensors, b: np.ndarray, scale: float) -> np.ndarray:
    with np.errstate(over="ignore"):
        scaled = b * np.float32(scale)
    if not np.isfinite(scaled).all():
        raise BadInput(
            f"{tensors.path}: lora_B times lora_alpha / r ({scale:g}) is beyond float32; accepted: "
            f"a smaller lora_alpha in {CONFIG}"
        )
    return scaled


def _check_names(
    folder: pathlib.Path, tensors: Tensors, settings: Settings, adapted: list[tuple[str, str]]
) -> None:
    """Refuse factors of layers that the model lacks, and targets without factors."""
    read = {name for pair in adapted for name in pair}
    unknown = sorted(set(tensors.factors) - read)
    if unknown:
        listed = ", ".join(shown(name) for name in unknown[:5])
        raise BadInput(
            f"{tensors.path} has {listed}, which is no factor of a linear layer of this model; "
            f"accepted: NAME{A_END} and NAME{B_END} of its linear layers outside the head"
        )
    for target in settings.targets:
        if not any(f".{_module_name(name)}".endswith(f".{target}") for name in read):
            raise BadInput(
                f"{folder / CONFIG}: target_modules has {shown(target)}, and {tensors.path.name} "
                "has no factors of such a layer; accepted: names of layers with factors"
            )
