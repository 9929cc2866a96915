"""The update, compiled once for each length of batches."""

import time
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh

from balora_jax.data import Batch
from balora_jax.runs.setup import Assembly
from balora_jax.training.sharding import batch_sharding, put


class CompiledStep:
    """(state, numpy batch) -> (state, metrics); the state given is overwritten.

    Attributes:
      seconds: what compiling took so far.
      bytes: what a device needs at most, arguments and temporaries.
    """

    def __init__(self, update: Callable, run: Assembly, mesh: Mesh, micro_batches: int) -> None:
        """`update`: from `make_train_step`."""
        places = jax.tree.map(lambda leaf: leaf.sharding, run.state)
        self._update = jax.jit(update, donate_argnums=0, out_shardings=(places, None))
        self._run, self._sharding, self._micro_batches = run, batch_sharding(mesh), micro_batches
        self._programs: dict[int, Any] = {}
        self.seconds, self.bytes = 0.0, 0

    @property
    def lengths(self) -> list[int]:
        """The lengths that were compiled for, one program each."""
        return sorted(self._programs)

    def compile(self, batch: Batch) -> None:
        """Compiles for batches of these arrays' shapes, [examples, ...]."""

        def abstract(array: Any) -> jax.ShapeDtypeStruct:
            shape = self._split(array.shape)
            return jax.ShapeDtypeStruct(shape, array.dtype, sharding=self._sharding)

        shapes = jax.tree.map(abstract, batch)
        began = time.monotonic()
        compiled = self._update.lower(self._run.state, self._run.frozen, shapes).compile()
        self.seconds += time.monotonic() - began
        memory = compiled.memory_analysis()
        self.bytes = max(self.bytes, memory.argument_size_in_bytes + memory.temp_size_in_bytes)
        self._programs[batch.input_ids.shape[-1]] = compiled

    def __call__(self, state: Any, batch: Batch) -> tuple[Any, dict[str, jax.Array]]:
        length = batch.input_ids.shape[-1]
        if length not in self._programs:
            self.compile(batch)
        on_device = jax.tree.map(
            lambda array: put(array.reshape(self._split(array.shape)), self._sharding), batch
        )
        return self._programs[length](state, self._run.frozen, on_device)

    def _split(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """[examples, ...] -> [micro-batches, examples, ...]."""
        return (self._micro_batches, shape[0] // self._micro_batches, *shape[1:])
