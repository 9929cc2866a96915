"""The head that a run takes over from the PEFT adapter that it continues from."""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from balora_jax import models
from balora_jax.errors import BadInput
from balora_jax.training.state import Path
from balora_jax.training.subtrees import select, update

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
      modules: the modules that the run trains whole; none for a language model.
      tensors: the adapter's, of its modules that were trained whole.
      folder: the adapter's, for messages.
      place: puts one parameter, given its path and value, on its devices.
      replace: True to leave out a head for another number of labels.

    Returns:
      The model with the adapter's head. A module with stored weights that the adapter does not have
      keeps them, because PEFT did not train it.

    Raises:
      BadInput: the adapter has other modules, lacks a part of one or a module that starts fresh, or
        its head is for another number of labels.
    """
    _check_names(loaded, modules, tensors, folder)
    taken = _modules_in(loaded, modules, tensors, folder)
    head = select(loaded.params, taken)
    shapes = _shapes(loaded.model, head)
    labels = _other_labels(loaded.model.labels, shapes, tensors)
    if labels is not None and replace:
        return loaded
    _check_shapes(loaded.model.labels, labels, shapes, tensors, folder)

    params = traverse_util.flatten_dict(models.head_params(loaded.model, head, tensors))
    placed = {path: place(path, value) for path, value in params.items()}
    return loaded._replace(
        params=update(loaded.params, traverse_util.unflatten_dict(placed)),
        # No module starts fresh any longer.
        notes=[f"the head starts from {folder}"],
    )


def _check_names(
    loaded: models.Loaded, modules: Sequence[Path], tensors: Tensors, folder: pathlib.Path
) -> None:
    """Refuse tensors of modules that the run does not train whole."""
    known = _shapes(loaded.model, select(loaded.params, modules))
    unknown = sorted(set(tensors) - set(known))
    if unknown:
        trained = ", ".join(".".join(module) for module in modules) or "no module"
        listed = ", ".join(ascii(name)[:120] for name in unknown[:5])
        raise BadInput(
            f"{folder} holds {listed}, trained whole, where this run trains {trained} whole; "
            "accepted: an adapter with the head of this run's model, or with none"
        )


def _modules_in(
    loaded: models.Loaded, modules: Sequence[Path], tensors: Tensors, folder: pathlib.Path
) -> list[Path]:
    """The modules that the adapter holds; the others must have stored weights."""
    taken = []
    for module in modules:
        names = _shapes(loaded.model, select(loaded.params, [module]))
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


def _shapes(model: Any, head: Any) -> dict[str, tuple[int, ...]]:
    """The shapes of a head's tensors, by Hugging Face's names."""
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), head)
    return {name: tensor.shape for name, tensor in models.head_tensors(model, zeros).items()}


def _other_labels(labels: int, shapes: dict[str, tuple[int, ...]], tensors: Tensors) -> int | None:
    """The number of labels of the adapter's head if it is another one."""
    for name, shape in shapes.items():
        stored = tensors[name].shape
        if shape[0] == labels and stored[1:] == shape[1:] and stored[:1] not in ((), (labels,)):
            return stored[0]
    return None


def _check_shapes(
    labels: int,
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
