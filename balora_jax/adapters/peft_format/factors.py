"""The factors of a PEFT folder as a `lora` collection, in which all layers have one rank."""

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util

from balora_jax.adapters.peft_format.layers import Layers, Product, name_ends
from balora_jax.adapters.peft_format.names import (
    A_END,
    B_END,
    CONFIG,
    factor_names,
    layer_names,
    module_name,
)
from balora_jax.adapters.peft_format.original_base import check_kernels
from balora_jax.adapters.peft_format.settings import Settings, read_settings
from balora_jax.adapters.peft_format.tensors import Tensors, read_tensors
from balora_jax.adapters.targets import Path, embedding_tables, linear_kernels
from balora_jax.errors import BadInput, listed, shown

# The heads that PEFT itself adds to modules_to_save, by task_type; a model has one of them at most.
ADDED = {
    "SEQ_CLS": ("classifier", "score"),
    "TOKEN_CLS": ("classifier", "score"),
    "QUESTION_ANS": ("qa_outputs",),
}


class Factors(NamedTuple):
    """The factors as PEFT stored them.

    Attributes:
      settings: the options.
      tensors: of the file.
      products: of each layer of an adapted kernel; None of a layer without factors.
      lora: the collection, with the scales folded into b.
    """

    settings: Settings
    tensors: Tensors
    products: Mapping[Path, list[Product | None]]
    lora: Mapping[str, Any]


class _Layer(NamedTuple):
    """A layer: the names of its two factors, and their product, None if it has none."""

    pair: tuple[str, str]
    product: Product | None


def read_factors(folder: pathlib.Path, params: Mapping[str, Any]) -> Factors:
    """Read the factors of a PEFT folder.

    Args:
      folder: PEFT's folder.
      params: frozen parameters of the model to adapt, or their shapes.

    Returns:
      The factors. Their rank is the largest of a layer; zeros fill up those of smaller ranks, and
      layers of a stack without factors.

    Raises:
      BadInput: as for `load_adapter`.
    """
    settings = read_settings(folder)
    tensors = read_tensors(folder)
    options = Layers(folder / CONFIG, settings)
    tables = embedding_tables(params)
    shapes = linear_kernels(params) | tables
    adapted = {}
    for path, shape in shapes.items():
        layers = _layers(tensors, options, path, shape, of_embedding=path in tables)
        if not any(layer.product for layer in layers):
            continue
        if path in tables and settings.recomputed is not None:
            raise BadInput(
                f"{folder / CONFIG}: init_lora_weights is {settings.recomputed!r} and "
                f"{layers[0].pair[0]} is of an embedding; accepted: factors of linear layers alone"
            )
        for layer in layers:
            _check_shapes(tensors, layer, shape)
        adapted[path] = layers
    _check_targets(folder, tensors, settings, options, adapted)
    _check_saved(folder, tensors, settings)
    products = {path: [layer.product for layer in layers] for path, layers in adapted.items()}
    if settings.recomputed is not None:
        check_kernels(folder, params, settings.recomputed, products)

    rank = max(product.rank for found in products.values() for product in found if product)
    lora = {}
    for path, layers in adapted.items():
        pairs = [_padded(tensors, layer, rank, shapes[path]) for layer in layers]
        for factor, arrays in zip("ab", zip(*pairs, strict=True), strict=True):
            lora[(*path, factor)] = np.stack(arrays) if len(shapes[path]) == 3 else arrays[0]
    return Factors(settings, tensors, products, traverse_util.unflatten_dict(lora))


def _layers(
    tensors: Tensors, options: Layers, path: Path, shape: tuple[int, ...], *, of_embedding: bool
) -> list[_Layer]:
    """The layers of a kernel or an embedding: those that are adapted have both factors."""
    names = layer_names(path, shape)
    indices = range(shape[0]) if len(shape) == 3 else [None]
    pairs = [factor_names(path, index, of_embedding=of_embedding) for index in indices]
    has_factors = [any(factor in tensors.factors for factor in pair) for pair in pairs]
    adapted = [options.is_adapted(name) for name in names]
    # Where the options leave it to the model, all layers of a kind have factors, or none.
    is_adapted_kind = any(has_factors)
    adapted = [is_adapted_kind if is_adapted is None else is_adapted for is_adapted in adapted]
    layers = []
    unused = []
    missing = []
    for name, pair, has, is_adapted in zip(names, pairs, has_factors, adapted, strict=True):
        if is_adapted:
            missing += [factor for factor in pair if factor not in tensors.factors]
        elif has:
            unused.append(name)
        layers.append(_Layer(pair, options.product(name) if is_adapted else None))
    if unused:
        raise BadInput(
            f"{tensors.path} has factors of {listed(unused)}, which PEFT leaves out by {CONFIG} "
            "(target_modules, exclude_modules, layers_to_transform, modules_to_save); accepted: "
            "factors of the layers that these options name"
        )
    if missing:
        raise BadInput(
            f"{tensors.path} lacks {listed(missing)}; accepted: lora_A and lora_B of every layer "
            f"that PEFT adapts by {CONFIG}"
        )
    return layers


def _check_shapes(tensors: Tensors, layer: _Layer, shape: tuple[int, ...]) -> None:
    """Refuse factors of other shapes than [r, in] and [out, r]."""
    if layer.product is None:
        return
    rank = layer.product.rank
    fan_in, fan_out = shape[-2:]
    for name, wanted in zip(layer.pair, ((rank, fan_in), (fan_out, rank)), strict=True):
        stored = tensors.factors[name].shape
        if stored != wanted:
            raise BadInput(
                f"{tensors.path}: {name} is of shape {list(stored)}; accepted: {list(wanted)}, "
                f"for r or rank_pattern in {CONFIG} and the model's layer"
            )


def _padded(
    tensors: Tensors, layer: _Layer, rank: int, shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """A layer's factors in our order, [in, rank] and [rank, out], filled up with zeros."""
    fan_in, fan_out = shape[-2:]
    a = np.zeros((fan_in, rank), np.float32)
    b = np.zeros((rank, fan_out), np.float32)
    if layer.product is not None:
        stored_a, stored_b = (tensors.factors[name] for name in layer.pair)
        a[:, : layer.product.rank] = stored_a.T
        b[: layer.product.rank] = _scaled(tensors, stored_b.T, layer.product.scale)
    return a, b


def _scaled(tensors: Tensors, b: np.ndarray, scale: float) -> np.ndarray:
    with np.errstate(over="ignore"):
        scaled = b * np.float32(scale)
    if not np.isfinite(scaled).all():
        raise BadInput(
            f"{tensors.path}: lora_B times lora_alpha / r ({scale:g}) is beyond float32; accepted: "
            f"a smaller lora_alpha in {CONFIG}"
        )
    return scaled


def _check_targets(
    folder: pathlib.Path,
    tensors: Tensors,
    settings: Settings,
    options: Layers,
    adapted: Mapping[Path, list[_Layer]],
) -> None:
    """Refuse factors of layers that the model lacks, and targets without factors."""
    layers = [layer for found in adapted.values() for layer in found if layer.product]
    read = {name for layer in layers for name in layer.pair}
    unknown = sorted(set(tensors.factors) - read)
    if unknown:
        listed = ", ".join(shown(name) for name in unknown[:5])
        raise BadInput(
            f"{tensors.path} has {listed}, which is no factor of a linear layer of this model; "
            f"accepted: NAME{A_END} and NAME{B_END} of its linear layers outside the head"
        )
    if not isinstance(settings.targets, tuple):
        return
    known = {end for name in read for end in name_ends(module_name(name))}
    for target in settings.targets:
        # PEFT writes the layers of all-linear by name, those that it then leaves out as well.
        if target not in known and not options.is_left_out(target):
            raise BadInput(
                f"{folder / CONFIG}: target_modules has {shown(target)}, and {tensors.path.name} "
                "has no factors of such a layer; accepted: names of layers with factors"
            )


def _check_saved(folder: pathlib.Path, tensors: Tensors, settings: Settings) -> None:
    """Refuse modules that were trained whole without their tensors."""
    added = ADDED.get(settings.task, ()) if isinstance(settings.task, str) else ()
    modules = set()
    for tensor in tensors.whole:
        module = module_name(tensor)
        while module:
            modules.add(module)
            module = module.rpartition(".")[0]
    for name in dict.fromkeys(settings.saved):
        # PEFT finds a module by the end of its name, and saves what lies in it.
        if name not in added and not any(module.endswith(name) for module in modules):
            raise BadInput(
                f"{folder / CONFIG}: modules_to_save has {shown(name)}, and {tensors.path.name} "
                "has no tensors of such a module; accepted: modules whose tensors are in the file"
            )
