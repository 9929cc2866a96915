"""The modules that a model takes over from a PEFT adapter, such as a classifier's head."""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from balora_jax import models
from balora_jax.adapters import peft_format
from balora_jax.errors import BadInput
from balora_jax.runs.whole_modules import ends_tie, single_modules, untie
from balora_jax.training.state import Path
from balora_jax.training.subtrees import select, update, without

Tensors = Mapping[str, np.ndarray]
Place = Callable[[Path, np.ndarray], jax.Array]


def take_head(
    loaded: models.Loaded,
    modules: Sequence[Path],
    tensors: Tensors,
    folder: pathlib.Path,
    *,
    place: Place,
    replace: bool,
) -> models.Loaded:
    """Put the tensors of an adapter's head into a loaded model.

    Args:
      loaded: the pre-trained model.
      modules: the modules that the run trains whole.
      tensors: the adapter's, of its modules that were trained whole.
      folder: the adapter's, for messages.
      place: puts one parameter, given its path and value, on its devices.
      replace: True to leave out a head for another number of labels.

    Returns:
      The model with the adapter's modules; a language model also has those that the run trains
      whole as they were. A module with stored weights that the adapter does not have keeps them,
      because PEFT did not train it.

    Raises:
      BadInput: the adapter has other modules, lacks a part of one or a module that starts fresh, or
        its head is for another number of labels.
    """
    _check_names(loaded, modules, tensors, folder)
    taken = _modules_in(loaded, modules, tensors, folder)
    head = select(loaded.params, taken)
    shapes = models.head_shapes(loaded.model, head)
    expected = getattr(loaded.model, "labels", None)
    labels = None if expected is None else _other_labels(expected, shapes, tensors)
    if labels is not None and replace:
        return loaded
    _check_shapes(expected, labels, shapes, tensors, folder)

    params = traverse_util.flatten_dict(models.head_params(loaded.model, head, tensors))
    placed = {path: place(path, value) for path, value in params.items()}
    loaded = loaded._replace(
        params=update(loaded.params, traverse_util.unflatten_dict(placed)),
        pretrained=select(loaded.params, modules) if expected is None else None,
    )
    if expected is None:
        started = ", ".join(".".join(module) for module in taken)
        return loaded._replace(notes=[*loaded.notes, f"{started}: from {folder}"])
    # No module starts fresh any longer.
    return loaded._replace(notes=[f"the head starts from {folder}"])


def _check_names(
    loaded: models.Loaded, modules: Sequence[Path], tensors: Tensors, folder: pathlib.Path
) -> None:
    """Refuse tensors of modules that the run does not train whole."""
    known = models.head_shapes(loaded.model, select(loaded.params, modules))
    unknown = sorted(set(tensors) - set(known))
    if unknown:
        trained = ", ".join(".".join(module) for module in modules) or "no module"
        listed = ", ".join(ascii(name)[:120] for name in unknown[:5])
        accepted = "an adapter with the head of this run's model, or with none"
        if not hasattr(loaded.model, "labels"):
            accepted = "adapter.modules_to_save with the same modules, or another adapter"
        raise BadInput(
            f"{folder} holds {listed}, trained whole, where this run trains {trained} whole; "
            f"accepted: {accepted}"
        )


def _modules_in(
    loaded: models.Loaded, modules: Sequence[Path], tensors: Tensors, folder: pathlib.Path
) -> list[Path]:
    """The modules that the adapter holds; the others must have stored weights."""
    taken = []
    for module in modules:
        names = models.head_shapes(loaded.model, select(loaded.params, [module]))
        absent = [name for name in names if name not in tensors]
        if len(absent) == len(names) and module not in loaded.fresh:
            continue
        if absent:
            raise BadInput(
                f"{folder} lacks {', '.join(absent)} of a head that it holds in part, and the "
                "model has none either; accepted: an adapter with the whole head"
            )
        taken.append(module)
    return taken


def _other_labels(labels: int, shapes: dict[str, tuple[int, ...]], tensors: Tensors) -> int | None:
    """The number of labels of the adapter's head if it is another one."""
    for name, shape in shapes.items():
        stored = tensors[name].shape
        if shape[0] == labels and stored[1:] == shape[1:] and stored[:1] not in ((), (labels,)):
            return stored[0]
    return None


def _check_shapes(
    labels: int | None,
    stored_labels: int | None,
    shapes: dict[str, tuple[int, ...]],
    tensors: Tensors,
    folder: pathlib.Path,
) -> None:
    """Refuse a head that does not fit."""
    if stored_labels is not None:
        raise BadInput(
            f"{folder} has a head for {stored_labels} labels and the data has {labels}; accepted: "
            f"data with {stored_labels}, or model.replace_head true to start a fresh head"
        )
    for name, shape in shapes.items():
        if tensors[name].shape != shape:
            raise BadInput(
                f"{folder}: {name} is of shape {list(tensors[name].shape)}; accepted: {list(shape)}"
            )


def with_adapter(loaded: models.Loaded, folder: pathlib.Path) -> tuple[models.Loaded, Any]:
    """Read a PEFT folder for a language model: its factors, and the modules trained whole.

    Args:
      loaded: the pre-trained model.
      folder: PEFT's folder.

    Returns:
      The model with the adapter's modules, and the `lora` collection.

    Raises:
      BadInput: the adapter does not fit the model.
    """

    def place(_: Path, value: Any) -> jax.Array:
        return jnp.asarray(value)

    if ends_tie(loaded.model, peft_format.module_names(folder)):
        loaded = untie(loaded, place)
    tensors = peft_format.load_whole_modules(folder)
    modules = [
        module
        for module in single_modules(loaded.params)
        if set(tensors) & set(models.head_shapes(loaded.model, select(loaded.params, [module])))
    ]
    if tensors:
        loaded = take_head(loaded, modules, tensors, folder, place=place, replace=False)
    return loaded, peft_format.load_adapter(folder, without(loaded.params, modules))
