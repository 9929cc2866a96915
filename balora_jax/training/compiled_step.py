"""The update, compiled once for each length of batches."""

import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax

from balora_jax.data import Batch
from balora_jax.objective.params import Params, Parts
from balora_jax.training.setup import TrainSetup
from balora_jax.training.sharding import batch_sharding, put
from balora_jax.training.state import TrainState
from balora_jax.training.times import Times


class CompiledStep:
    """(state, frozen, batch of numpy arrays) -> (state, metrics); the state is overwritten.

    It compiles from shapes alone: weights are needed when it is called. One thread compiles ahead,
    beside the updates of lengths that are compiled already; what an update needs is not queued.

    Attributes:
      setup: the run's setup.
      seconds: time that compiling took so far.
      bytes: memory that a device needs at most, arguments and temporaries.
    """

    def __init__(
        self, setup: TrainSetup, micro_batches: int = 1, times: Times | None = None
    ) -> None:
        """Prepare to compile.

        Args:
          setup: the run's setup.
          micro_batches: micro-batches an update is made of.
          times: counts the time in which a program was waited for.
        """
        self._times = times or Times()
        shardings = jax.tree.map(lambda leaf: leaf.sharding, setup.state)
        self._step = jax.jit(setup.step, donate_argnums=0, out_shardings=(shardings, None))
        self.setup = setup
        self._sharding = batch_sharding(setup.mesh)
        self._micro_batches = micro_batches
        self._programs: dict[int, Future[jax.stages.Compiled]] = {}
        self._compiler = ThreadPoolExecutor(1, thread_name_prefix="compile")
        self._lock = threading.Lock()
        self.seconds = 0.0
        self.bytes = 0

    @property
    def lengths(self) -> list[int]:
        """The lengths that have been compiled for, one program each."""
        return sorted(length for length, program in self._programs.items() if _is_ready(program))

    def compile(self, batch: Batch) -> jax.stages.Compiled:
        """Compile for batches of these shapes and dtypes, and wait for it.

        Args:
          batch: arrays or shapes, [examples, ...].

        Returns:
          The program.
        """
        length = batch.input_ids.shape[-1]
        with self._times.spent_on("compile"):
            program = self._programs.get(length)
            # One that still waits for others is compiled here, at once.
            if program is None or program.cancel():
                program = Future()
                program.set_result(self._compile(batch))
                self._programs[length] = program
            return program.result()

    def compile_ahead(self, batches: Iterable[Batch]) -> None:
        """Compile for batches of these shapes and dtypes, one after the other, and do not wait.

        Args:
          batches: arrays or shapes, [examples, ...].
        """
        for batch in batches:
            length = batch.input_ids.shape[-1]
            if length not in self._programs:
                self._programs[length] = self._compiler.submit(self._compile, batch)

    def close(self) -> None:
        """Compile nothing that has not been begun."""
        self._compiler.shutdown(wait=False, cancel_futures=True)

    def shapes(self, batch: Batch) -> Batch:
        """Return the shapes that the program takes, on the mesh.

        Args:
          batch: arrays or shapes, [examples, ...].
        """

        def abstract(array: Any) -> jax.ShapeDtypeStruct:
            shape = self._split(array.shape)
            return jax.ShapeDtypeStruct(shape, array.dtype, sharding=self._sharding)

        return jax.tree.map(abstract, batch)

    def trace(self, shapes: Batch) -> jax.stages.Traced:
        """Trace the update, to count its operations or to compile it.

        Args:
          shapes: from `shapes`.
        """
        return self._step.trace(self.setup.state, self.setup.frozen, shapes)

    def _compile(self, batch: Batch) -> jax.stages.Compiled:
        began = time.monotonic()
        program = self.trace(self.shapes(batch)).lower().compile()
        took = time.monotonic() - began

        memory = program.memory_analysis()
        needed = memory.argument_size_in_bytes + memory.temp_size_in_bytes
        with self._lock:
            self.seconds += took
            self.bytes = max(self.bytes, needed)
        return program

    def __call__(self, state: TrainState, frozen: Params, batch: Batch) -> tuple[TrainState, Parts]:
        """Update once.

        Args:
          state: overwritten.
          frozen: the frozen parameters.
          batch: numpy arrays [examples, ...].

        Returns:
          (state, metrics).
        """
        program = self.compile(batch)
        on_device = jax.tree.map(
            lambda array: put(array.reshape(self._split(array.shape)), self._sharding), batch
        )
        return program(state, frozen, on_device)

    def _split(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """[examples, ...] -> [micro-batches, examples, ...]."""
        examples, *rest = shape
        return (self._micro_batches, examples // self._micro_batches, *rest)


def _is_ready(program: Future) -> bool:
    """Return True if a program has been compiled, and neither failed nor been given up."""
    return program.done() and not program.cancelled() and program.exception() is None
