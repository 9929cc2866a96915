"""The correspondence of Hugging Face's tensors and our parameters, for loading and for saving.

A parameter's path, joined by dots, is Hugging Face's name but for the differences that a `Naming`
describes: there, stacked layers and experts are numbered, leaves have other names, and dense
kernels are stored [out, in].
"""

import dataclasses
import functools
import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import numpy as np
from flax.traverse_util import flatten_dict
from jax.experimental import multihost_utils

from balora_jax.errors import MOST_NAMES, BadInput, listed
from balora_jax.models.hf.checkpoint import FLOATS, Checkpoint, DeferredTensor

Path = tuple[str, ...]

# Our leaf's name -> (Hugging Face's name, True if its axes are reversed there).
LEAF_NAMES = {
    "kernel": ("weight", True),
    "filters": ("weight", True),
    "embedding": ("weight", False),
    "scale": ("weight", False),
    "bias": ("bias", False),
}


@dataclass(frozen=True)
class Naming:
    """The differences between one family's tensor names and our paths.

    Attributes:
      prefix: the module that a checkpoint of the bare model omits from its names.
      stack: the module whose parameters are stacked; the layer's number follows its name.
      ignored: regular expression of tensors that are not read: buffers, heads of other tasks.
      untransposed: modules whose kernels are stored [in, out].
      renamed: (the end of our module's path, its replacement), joined by dots.
      experts: within the stack, the module whose parameters are stacked once more.
      older: (regular expression, replacement) of names that older checkpoints have.
      kept: regular expression of tensors that are not read, and saved as they are: those of images;
        None if there are none.
    """

    prefix: str
    stack: str
    ignored: str
    untransposed: tuple[str, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()
    experts: str | None = None
    older: tuple[tuple[str, str], ...] = ()
    kept: str | None = None


@dataclass(frozen=True)
class TableEntry:
    """One parameter and its tensors: one, one per layer, or one per layer and expert.

    Attributes:
      path: the parameter's path.
      shape: the parameter's shape.
      names: the tensors' names, in the order of the stacked axes.
      stacked: leading axes of the parameter that count layers and experts.
      transposed: True if the tensors' axes are reversed.
    """

    path: Path
    shape: tuple[int, ...]
    names: tuple[str, ...]
    stacked: int
    transposed: bool

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """The shape of each tensor."""
        shape = self.shape[self.stacked :]
        return shape[::-1] if self.transposed else shape


def name_table(naming: Naming, params: dict) -> list[TableEntry]:
    """List the tensors of every parameter.

    With two layers, the parameter {"layers": {"mlp": {"kernel": [2, in, out]}}} is stored as
    layers.0.mlp.weight and layers.1.mlp.weight, each [out, in].

    Args:
      naming: the family's.
      params: the parameters or their shapes.

    Returns:
      One entry per parameter.
    """
    table = []
    for path, leaf in flatten_dict(params).items():
        module = path[:-1]
        leaf_name, transposed = LEAF_NAMES[path[-1]]
        if path[-1] == "kernel" and module[-1] in naming.untransposed:
            transposed = False
        stacks = [stack for stack in (naming.stack, naming.experts) if stack in path]
        counts = (range(size) for size in leaf.shape[: len(stacks)])
        names = tuple(
            f"{_module_name(naming, module, dict(zip(stacks, numbers, strict=True)))}.{leaf_name}"
            for numbers in itertools.product(*counts)
        )
        table.append(TableEntry(path, tuple(leaf.shape), names, len(stacks), transposed))
    return table


def _module_name(naming: Naming, module: Path, numbers: dict[str, int]) -> str:
    """Join a module's path with dots, the number of a layer or expert after its stack's name."""
    parts = []
    for part in module:
        parts.append(part)
        if part in numbers:
            parts.append(str(numbers[part]))
    name = ".".join(parts)
    for our_end, their_end in naming.renamed:
        if name.endswith(our_end):
            name = name.removesuffix(our_end) + their_end
    return name


@dataclass(frozen=True)
class Match:
    """The tensors of a checkpoint matched with a model's parameters.

    Attributes:
      loaded: the parameters that are read from the checkpoint.
      fresh: the parameters of heads that the checkpoint lacks or has in another shape.
      stored_names: {the table's name: the checkpoint's name} of all tensors of the checkpoint.
    """

    loaded: list[TableEntry]
    fresh: list[TableEntry]
    stored_names: dict[str, str]


def match_checkpoint(
    naming: Naming, shapes: dict, checkpoint: Checkpoint, heads: tuple[str, ...] = ()
) -> Match:
    """Find every parameter of a model in a checkpoint; reads headers only.

    Args:
      naming: the family's.
      shapes: the parameters' shapes, as `abstract_params` returns them.
      checkpoint: the folder's tensors.
      heads: modules, joined by dots, that may be missing or of another shape.

    Returns:
      The parameters to read, and those that start fresh.

    Raises:
      BadInput: tensors are missing, unexpected or misshapen; the message names all of them.
    """
    table = name_table(naming, shapes)
    expected_shapes = {name: entry.stored_shape for entry in table for name in entry.names}
    stored_names = _stored_names(naming, expected_shapes, checkpoint)
    stored_shapes = {
        name: checkpoint.headers[stored].shape for name, stored in stored_names.items()
    }

    fresh = []
    loaded = []
    for entry in table:
        fits = stored_shapes.get(entry.names[0]) == entry.stored_shape
        if _is_in(heads, entry.path) and not fits:
            fresh.append(entry)
        else:
            loaded.append(entry)

    excused = {entry.names[0] for entry in fresh}
    required = {name: shape for name, shape in expected_shapes.items() if name not in excused}
    problems = _problems(naming, required, expected_shapes, stored_shapes)
    if problems:
        raise BadInput(
            f"{checkpoint.folder} does not fit its config.json; {'; '.join(problems)}; accepted: "
            "the tensors and shapes that config.json describes"
        )
    for entry in loaded:
        for name in entry.names:
            checkpoint.require_floats(stored_names[name])
    return Match(loaded, fresh, stored_names)


def _problems(
    naming: Naming,
    required: dict[str, tuple[int, ...]],
    expected: dict[str, tuple[int, ...]],
    stored: dict[str, tuple[int, ...]],
) -> list[str]:
    """Describe the tensors that are missing, unexpected and misshapen, in a clause for each kind.

    Args:
      naming: the family's.
      required: {name: shape} of the tensors that must be stored.
      expected: {name: shape} of all tensors that may be stored.
      stored: {name: shape} of the tensors that are stored.

    Returns:
      The clauses; none if all is well.
    """
    missing = [name for name in required if name not in stored]
    known = naming.ignored if naming.kept is None else f"{naming.ignored}|{naming.kept}"
    unexpected = [name for name in stored if name not in expected and not re.fullmatch(known, name)]
    misshapen = [
        f"{listed([name])} {list(stored[name])} instead of {list(shape)}"
        for name, shape in required.items()
        if name in stored and stored[name] != shape
    ]
    problems = []
    if missing:
        problems.append(f"missing: {listed(_grouped_by_layer(missing))}")
    if unexpected:
        problems.append(f"unexpected: {listed(_grouped_by_layer(unexpected))}")
    if misshapen:
        problems.append(f"misshapen: {listed(misshapen)}")
    return problems


def tensors_of(naming: Naming, params: dict) -> list[DeferredTensor]:
    """List Hugging Face's tensors; the array of each is made only when it is needed.

    Where several processes share the parameters, all of them make the arrays, in the same order.

    Args:
      naming: the family's.
      params: the parameters; a leaf may be any object that has a shape and a dtype and gives the
        layer at an index.

    Returns:
      One tensor per name, in the order of the table.
    """
    flat = flatten_dict(params)
    tensors = []
    for entry in name_table(naming, params):
        leaf = flat[entry.path]
        places = np.ndindex(entry.shape[: entry.stacked])
        for place, name in zip(places, entry.names, strict=True):
            make = _tensor_maker(entry, leaf, place)
            dtype = np.dtype(leaf.dtype)
            tensors.append(DeferredTensor(name, entry.stored_shape, dtype, make))
    return tensors


def _tensor_maker(
    entry: TableEntry, leaf: jax.Array, place: tuple[int, ...]
) -> Callable[[], np.ndarray]:
    def make() -> np.ndarray:
        value = leaf[place]
        if isinstance(value, jax.Array) and not value.is_fully_addressable:
            value = multihost_utils.process_allgather(value, tiled=True)
        value = np.asarray(value)
        if entry.transposed:
            value = value.T
        return np.ascontiguousarray(value)

    return make


def _is_in(modules: tuple[str, ...], path: Path) -> bool:
    """Return True if the path lies in one of the modules, given as dotted names."""
    return any(".".join(path).startswith(f"{module}.") for module in modules)


def _stored_names(
    naming: Naming, expected: dict[str, tuple[int, ...]], checkpoint: Checkpoint
) -> dict[str, str]:
    """Map the table's names to the checkpoint's.

    Older checkpoints call a norm's parameters gamma and beta; those of a bare model omit the
    prefix.

    Args:
      naming: the family's.
      expected: the table's names.
      checkpoint: the folder's tensors.

    Returns:
      {the table's name: the checkpoint's name} of all tensors of the checkpoint.

    Raises:
      BadInput: two tensors have the same name in the table.
    """
    prefix = f"{naming.prefix}."
    current = {stored: _current(naming, stored) for stored in checkpoint.headers}
    is_bare = not any(name.startswith(prefix) for name in current.values())
    stored_names = {}
    for stored, name in current.items():
        name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name)
        name = re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)
        if is_bare and prefix + name in expected:
            name = prefix + name
        if name in stored_names:
            raise BadInput(
                f"{checkpoint.folder} has both {listed([stored_names[name], stored])}; accepted: "
                "one tensor for each parameter"
            )
        stored_names[name] = stored
    return stored_names


def _current(naming: Naming, stored: str) -> str:
    """Return the name that transformers writes today for a stored tensor."""
    for pattern, replacement in naming.older:
        stored = re.sub(pattern, replacement, stored)
    return stored


def beside_kept(
    naming: Naming, tensors: Sequence[DeferredTensor], checkpoint: Checkpoint
) -> list[DeferredTensor]:
    """Add the tensors of a checkpoint that a saved model takes over as they are.

    Args:
      naming: the family's.
      tensors: of the parameters, as `tensors_of` listed them.
      checkpoint: the folder that the parameters come from.

    Returns:
      All tensors, under the names of the checkpoint where it has them.

    Raises:
      BadInput: the element type of one is no floating-point type.
    """
    stored_names = {_current(naming, stored): stored for stored in checkpoint.headers}
    whole = [
        dataclasses.replace(tensor, name=stored_names.get(tensor.name, tensor.name))
        for tensor in tensors
    ]
    for name, stored in stored_names.items():
        if re.fullmatch(naming.kept, name):
            checkpoint.require_floats(stored)
            header = checkpoint.headers[stored]
            make = functools.partial(checkpoint.read, stored)
            dtype = np.dtype(FLOATS[header.dtype])
            whole.append(DeferredTensor(stored, header.shape, dtype, make))
    return whole


def _grouped_by_layer(names: list[str]) -> list[str]:
    """Join names that differ by a layer's number alone.

    [a.0.b, a.1.b, c] becomes [a.{0,1}.b, c].
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        number = re.search(r"(?<=\.)\d+(?=\.)", name)
        if number is None:
            groups.setdefault(name, [])
        else:
            pattern = f"{name[: number.start()]}{{}}{name[number.end() :]}"
            groups.setdefault(pattern, []).append(number.group())

    grouped = []
    for pattern, numbers in groups.items():
        if len(numbers) > MOST_NAMES:
            numbers = [*numbers[:MOST_NAMES], "..."]
        joined = ",".join(numbers)
        replacement = joined if len(numbers) == 1 else f"{{{joined}}}"
        grouped.append(pattern.replace("{}", replacement, 1))
    return grouped
