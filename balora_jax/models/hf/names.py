"""Hugging Face's tensors and our parameters: one table, read from left to right to load and back to save.

A path of ours joined by dots is Hugging Face's name, but for what `Names` says: the stacks of layers carry a number
there, leaves have other names, and dense kernels are stored [out, in].
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from balora_jax.errors import BadInput
from balora_jax.models.hf.checkpoint import Checkpoint, Part

Path = tuple[str, ...]
Place = Callable[[Path, np.ndarray], jax.Array]
# Our leaf's name -> (theirs, is it stored with its axes reversed).
LEAVES = {
    "kernel": ("weight", True),
    "filters": ("weight", True),
    "embedding": ("weight", False),
    "scale": ("weight", False),
    "bias": ("bias", False),
}


@dataclass(frozen=True)
class Names:
    """How one family's tensor names differ from our paths."""

    # The module that a checkpoint of the bare model leaves out of its names.
    prefix: str
    # The module whose parameters are stacked; its name is followed by the layer's number.
    stack: str
    # Tensors a checkpoint may hold without our reading them: buffers, and heads of other tasks.
    ignored: str
    # Modules whose kernels are stored [in, out].
    untransposed: tuple[str, ...] = ()
    # Our module's end -> theirs, where only that differs.
    renamed: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Entry:
    """One of our leaves and the tensors it is made of: one, or one a layer."""

    path: Path
    shape: tuple[int, ...]
    names: tuple[str, ...]
    stacked: bool
    transposed: bool

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """The shape of each tensor in the file."""
        shape = self.shape[1:] if self.stacked else self.shape
        return shape[::-1] if self.transposed else shape


def name_table(names: Names, params: dict) -> list[Entry]:
    """The table of one model.

    Args:
        names: the family's.
        params: the parameters or their shapes.

    Returns:
        One entry a leaf.
    """
    table = []
    for path, leaf in flatten_dict(params).items():
        theirs, transposed = LEAVES[path[-1]]
        stacked = names.stack in path
        numbers = range(leaf.shape[0]) if stacked else (None,)
        tensors = tuple(f"{_module_name(names, path[:-1], number)}.{theirs}" for number in numbers)
        transposed = transposed and not (path[-1] == "kernel" and path[-2] in names.untransposed)
        table.append(Entry(path, tuple(leaf.shape), tensors, stacked, transposed))
    return table


def _module_name(names: Names, path: Path, layer: int | None) -> str:
    parts = list(path)
    if layer is not None:
        parts.insert(parts.index(names.stack) + 1, str(layer))
    name = ".".join(parts)
    for ours, theirs in names.renamed:
        name = name.removesuffix(ours) + theirs if name.endswith(ours) else name
    return name


@dataclass(frozen=True)
class Reading:
    """A checkpoint held against a table.

    Attributes:
        entries: the leaves that are read.
        stored: {the table's name: the file's} of their tensors.
        fresh: the leaves of heads that the checkpoint does not have in this shape.
    """

    entries: list[Entry]
    stored: dict[str, str]
    fresh: list[Entry]


def compare(
    names: Names, shapes: dict, checkpoint: Checkpoint, heads: tuple[str, ...] = ()
) -> Reading:
    """Finds every tensor of a model in a checkpoint, by the files' headers alone.

    Args:
        names: the family's.
        shapes: the parameters' shapes, as `abstract_params` gives them.
        checkpoint: the folder's tensors.
        heads: modules (dotted) that may be missing or of another shape.

    Returns:
        What is read from where, and what starts fresh.

    Raises:
        BadInput: tensors are missing, unexpected or misshapen; all are named.
    """
    table = name_table(names, shapes)
    expected = {name: entry.stored_shape for entry in table for name in entry.names}
    stored = _known_by(names, expected, checkpoint)
    shape = {name: checkpoint.headers[file].shape for name, file in stored.items()}
    fresh = [e for e in table if _in_heads(e, heads) and shape.get(e.names[0]) != e.stored_shape]
    excused = {entry.names[0] for entry in fresh}
    missing = [name for name in expected if name not in stored and name not in excused]
    wrong = [
        name
        for name in expected
        if name in shape and shape[name] != expected[name] and name not in excused
    ]
    unexpected = [
        name for name in stored if name not in expected and not re.fullmatch(names.ignored, name)
    ]
    misshapen = [f"{name} {list(shape[name])} instead of {list(expected[name])}" for name in wrong]
    kinds = (
        ("missing", _grouped(missing)),
        ("unexpected", _grouped(unexpected)),
        ("misshapen", misshapen),
    )
    found = [f"{kind}: {', '.join(listed)}" for kind, listed in kinds if listed]
    if found:
        raise BadInput(f"{checkpoint.folder} does not fit its config.json; {'; '.join(found)}")
    return Reading([entry for entry in table if entry not in fresh], stored, fresh)


def read_leaf(
    entry: Entry, reading: Reading, checkpoint: Checkpoint, dtype: np.dtype
) -> np.ndarray:
    """One leaf's value, stacked and transposed, in the given type."""
    out = np.empty(entry.shape, dtype)
    for layer, name in enumerate(entry.names):
        value = checkpoint.read(reading.stored[name])
        target = out[layer] if entry.stacked else out
        np.copyto(target, value.T if entry.transposed else value, casting="unsafe")
    return out


def read_params(
    reading: Reading,
    checkpoint: Checkpoint,
    dtype: np.dtype,
    place: Place,
    start: Callable[[Entry], np.ndarray],
) -> dict:
    """The parameters, each placed before the next is read.

    Args:
        reading: what `compare` found.
        checkpoint: the folder's tensors.
        dtype: what they are turned into.
        place: puts one leaf, given its path and value, where it belongs.
        start: the value of a leaf that starts fresh.

    Returns:
        The parameters.
    """
    flat = {
        entry.path: place(entry.path, read_leaf(entry, reading, checkpoint, dtype))
        for entry in reading.entries
    }
    fresh = {entry.path: place(entry.path, start(entry).astype(dtype)) for entry in reading.fresh}
    return unflatten_dict({**flat, **fresh})


def parts(names: Names, params: dict) -> list[Part]:
    """Hugging Face's tensors, each made only when it is written.

    Args:
        names: the family's.
        params: the parameters.

    Returns:
        One part a tensor, in the order of the table.
    """
    flat = flatten_dict(params)
    return [
        Part(
            name,
            entry.stored_shape,
            np.dtype(flat[entry.path].dtype),
            _maker(entry, flat[entry.path], layer),
        )
        for entry in name_table(names, params)
        for layer, name in enumerate(entry.names)
    ]


def _maker(entry: Entry, leaf: jax.Array, layer: int) -> Callable[[], np.ndarray]:
    def make() -> np.ndarray:
        value = np.asarray(leaf[layer] if entry.stacked else leaf)
        return np.ascontiguousarray(value.T if entry.transposed else value)

    return make


def _in_heads(entry: Entry, heads: tuple[str, ...]) -> bool:
    return any(".".join(entry.path).startswith(f"{head}.") for head in heads)


def _known_by(names: Names, expected: dict, checkpoint: Checkpoint) -> dict[str, str]:
    """{the table's name: the file's} for everything stored; older files say gamma and beta, bare ones no prefix."""
    bare = not any(name.startswith(f"{names.prefix}.") for name in checkpoint.headers)
    known = {}
    for stored in checkpoint.headers:
        name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", stored)
        name = re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)
        prefixed = f"{names.prefix}.{name}"
        known[prefixed if bare and prefixed in expected else name] = stored
    return known


def _grouped(names: list[str]) -> list[str]:
    """The same names, those that differ by a layer's number alone written once: a.{0,1,2}.b."""
    groups: dict[str, list[str]] = {}
    for name in names:
        number = re.search(r"(?<=\.)\d+(?=\.)", name)
        shape = name if number is None else f"{name[: number.start()]}{{}}{name[number.end() :]}"
        groups.setdefault(shape, []).append("" if number is None else number.group())
    return [
        shape.replace("{}", numbers[0] if len(numbers) == 1 else f"{{{','.join(numbers)}}}", 1)
        for shape, numbers in groups.items()
    ]
