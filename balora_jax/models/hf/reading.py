"""Parameters read from a checkpoint onto the devices, one tensor at a time.

Of a large tensor every device reads an equal share of the rows, which lie together in the file, and
the devices transpose and exchange them. So the processes of a run read each byte once between them,
and a host holds its share of one tensor.
"""

import functools
import itertools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from balora_jax.errors import BadInput, listed
from balora_jax.models.hf.checkpoint import Checkpoint
from balora_jax.models.hf.finite import all_finite
from balora_jax.models.hf.names import Match, Path, TableEntry

# The sharding of a parameter, by its path and its shape.
ShardingOf = Callable[[Path, tuple[int, ...]], NamedSharding]
# Bytes of a tensor from which the devices share the reading of it. Every process reads smaller ones
# whole, such as the scales of norms: they are not worth a program.
LARGE = 2**20


def read_params(
    match: Match,
    checkpoint: Checkpoint,
    dtype: np.dtype,
    sharding_of: ShardingOf | None,
    initialize: Callable[[TableEntry], np.ndarray],
) -> dict:
    """Read all parameters; each is on its devices before the next one is read.

    Args:
      match: as `match_checkpoint` returned it.
      checkpoint: the folder's tensors.
      dtype: the element type to convert to.
      sharding_of: gives the sharding of each parameter; None for the default device.
      initialize: returns the value of a parameter that starts fresh.

    Returns:
      The parameters; a nested dict.

    Raises:
      BadInput: a tensor has numbers that are not finite; the message names it.
    """
    flat = {}
    for entry in match.loaded:
        sharding = None if sharding_of is None else sharding_of(entry.path, entry.shape)
        if math.prod(entry.stored_shape) * dtype.itemsize < LARGE:
            flat[entry.path] = _on_devices(_read_whole(entry, match, checkpoint, dtype), sharding)
        else:
            flat[entry.path] = _read_by_rows(entry, match, checkpoint, dtype, sharding)
        checkpoint.release()
    for entry in match.fresh:
        sharding = None if sharding_of is None else sharding_of(entry.path, entry.shape)
        flat[entry.path] = _on_devices(initialize(entry).astype(dtype), sharding)
    return unflatten_dict(flat)


def _on_devices(array: np.ndarray, sharding: NamedSharding | None) -> jax.Array:
    """Place a host array, the same on every host; None is the default device."""
    if sharding is None:
        return jnp.asarray(array)
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def _read_whole(
    entry: TableEntry, match: Match, checkpoint: Checkpoint, dtype: np.dtype
) -> np.ndarray:
    """Read a parameter of small tensors: its layers stacked, its axes in our order."""
    value = np.empty(entry.shape, dtype)
    layers = value.reshape(len(entry.names), *entry.shape[entry.stacked :])
    for layer, name in zip(layers, entry.names, strict=True):
        rows = _rows(checkpoint, match.stored_names[name], slice(None), dtype)
        layer[...] = rows.T if entry.transposed else rows
    return value


def _read_by_rows(
    entry: TableEntry,
    match: Match,
    checkpoint: Checkpoint,
    dtype: np.dtype,
    sharding: NamedSharding | None,
) -> jax.Array:
    """Read a parameter of large tensors: the devices transpose their shares, and fill the stack."""
    of_layer = None
    if sharding is not None:
        of_layer = NamedSharding(sharding.mesh, P(*sharding.spec[entry.stacked :]))
    move = _mover(entry.transposed, entry.stored_shape[0], of_layer)
    if not entry.stacked:
        stored = match.stored_names[entry.names[0]]
        return move(_placed_rows(checkpoint, stored, dtype, entry.transposed, of_layer))
    stack = jax.jit(lambda: jnp.zeros(entry.shape, dtype), out_shardings=sharding)()
    fill = _filler(entry.stacked, sharding)
    places = np.ndindex(entry.shape[: entry.stacked])
    for name, place in zip(entry.names, places, strict=True):
        stored = match.stored_names[name]
        rows = _placed_rows(checkpoint, stored, dtype, entry.transposed, of_layer)
        # One tensor is on its way while the next one is read, and no more.
        stack.block_until_ready()
        stack = fill(stack, move(rows), place)
    return stack


def _placed_rows(
    checkpoint: Checkpoint,
    name: str,
    dtype: np.dtype,
    transposed: bool,
    of_layer: NamedSharding | None,
) -> jax.Array:
    """Read a tensor as it is stored, with its rows divided over all devices, if they can be."""
    if of_layer is None:
        return jnp.asarray(_rows(checkpoint, name, slice(None), dtype))
    shape = checkpoint.headers[name].shape
    divided = NamedSharding(of_layer.mesh, P(_row_axes(shape[0], transposed, of_layer)))

    # Devices that need the same rows share one reading of them.
    @functools.cache
    def read(start: int | None, stop: int | None) -> np.ndarray:
        return _rows(checkpoint, name, slice(start, stop), dtype)

    return jax.make_array_from_callback(
        shape, divided, lambda index: read(index[0].start, index[0].stop)
    )


def _row_axes(rows: int, transposed: bool, of_layer: NamedSharding) -> tuple[str, ...]:
    """The axes that divide the rows of a stored tensor, as many as can: first those that stay."""
    used = _used_axes(transposed, of_layer)
    axes = (*used, *(axis for axis in of_layer.mesh.axis_names if axis not in used))
    while rows % math.prod(of_layer.mesh.shape[axis] for axis in axes):
        axes = axes[:-1]
    return axes


def _used_axes(transposed: bool, of_layer: NamedSharding) -> tuple[str, ...]:
    """The axes that divide a layer, those of its stored rows first."""
    spec = of_layer.spec[::-1] if transposed else of_layer.spec
    named = [axes if isinstance(axes, tuple) else (axes,) for axes in spec if axes is not None]
    return tuple(itertools.chain.from_iterable(named))


def _rows(checkpoint: Checkpoint, name: str, rows: slice, dtype: np.dtype) -> np.ndarray:
    """Read rows of a tensor and convert them.

    Raises:
      BadInput: they are not finite.
    """
    stored = checkpoint.read(name, rows)
    # Devices round numbers to zero that are below the range of normal ones; this does not.
    with np.errstate(over="ignore"):
        converted = stored.astype(dtype, copy=False)
    if not all_finite(converted):
        reason = "has NaN or infinite numbers"
        if all_finite(stored):
            reason = f"has numbers beyond the range of {dtype}"
        raise BadInput(
            f"{listed([name])} in {checkpoint.headers[name].file} {reason}; accepted: finite "
            "weights"
        )
    return converted


@functools.cache
def _mover(
    transposed: bool, rows: int, of_layer: NamedSharding | None
) -> Callable[[jax.Array], jax.Array]:
    """A program that gives every device its part of a layer, from rows of the stored tensor.

    First the axes that do not divide the layer gather its rows, then the others exchange parts of
    them. XLA cannot do both in one step: every device would gather the whole tensor.
    """

    def move(stored: jax.Array) -> jax.Array:
        if of_layer is not None:
            used = _used_axes(transposed, of_layer)
            axes = tuple(axis for axis in _row_axes(rows, transposed, of_layer) if axis in used)
            gathered = NamedSharding(of_layer.mesh, P(axes))
            stored = jax.lax.with_sharding_constraint(stored, gathered)
        return stored.T if transposed else stored

    return jax.jit(move, out_shardings=of_layer)


@functools.cache
def _filler(
    stacked: int, sharding: NamedSharding | None
) -> Callable[[jax.Array, jax.Array, tuple[int, ...]], jax.Array]:
    """A program that puts a layer into its place of a stack, whose memory it takes."""

    def fill(stack: jax.Array, layer: jax.Array, place: tuple[jax.Array, ...]) -> jax.Array:
        one = layer.reshape((1,) * stacked + layer.shape)
        return jax.lax.dynamic_update_slice(stack, one, (*place, *(0,) * layer.ndim))

    return jax.jit(fill, out_shardings=sharding, donate_argnums=0)
