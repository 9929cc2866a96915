"""Programs of several lengths are compiled beside the updates, each once."""

import threading
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from balora_jax.config import MeshConfig
from balora_jax.data import Batch
from balora_jax.training.compiled_step import CompiledStep
from balora_jax.training.sharding import make_mesh


def _batch(length):
    shape = 4, length
    ones = np.ones(shape, np.int32)
    return Batch(ones, ones > 0, ones, ones > 0)


@pytest.fixture
def compiling():
    """(step, traced): an update that adds up the tokens, and the (length, thread) of each trace."""
    traced = []

    def update(state, frozen, batch):
        traced.append((batch.input_ids.shape[-1], threading.current_thread().name))
        return state + jnp.sum(batch.input_ids), {}

    mesh = make_mesh(MeshConfig(data=1))
    place = jax.NamedSharding(mesh, jax.P())
    state = jax.ShapeDtypeStruct((), jnp.int32, sharding=place)
    setup = types.SimpleNamespace(step=update, state=state, frozen={}, mesh=mesh)
    return CompiledStep(setup, micro_batches=2), traced


def test_each_length_is_compiled_once_and_beside_the_updates(compiling):
    step, traced = compiling
    step.compile(_batch(8))
    step.compile_ahead([_batch(16), _batch(32)])
    state = jnp.int32(0)
    for length in (8, 16, 8, 32, 64):
        state, _ = step(state, {}, _batch(length))
    step.close()
    assert int(state) == 4 * (8 + 16 + 8 + 32 + 64)
    assert step.lengths == [8, 16, 32, 64]
    assert sorted(length for length, _ in traced) == [8, 16, 32, 64], "each once"
    main = threading.current_thread().name
    assert dict(traced)[8] == dict(traced)[64] == main
    assert step.seconds > 0 and step.bytes > 0


def test_what_an_update_needs_does_not_wait_for_other_lengths(compiling):
    step, traced = compiling
    busy = threading.Event()
    step._compiler.submit(busy.wait)
    step.compile_ahead([_batch(16), _batch(32)])
    state, _ = step(jnp.int32(0), {}, _batch(32))
    assert int(state) == 4 * 32
    assert traced == [(32, threading.current_thread().name)]
    busy.set()
    state, _ = step(state, {}, _batch(16))
    assert step.lengths == [16, 32] and len(traced) == 2
    step.close()


def test_a_failure_ends_the_update_that_needs_the_program(compiling):
    step, _ = compiling
    step.compile(_batch(8))
    odd = _batch(8)._replace(input_ids=np.ones((3, 16), np.int32))
    step.compile_ahead([odd])
    state, _ = step(jnp.int32(0), {}, _batch(8))
    with pytest.raises((TypeError, ValueError)):
        step(state, {}, odd)


def test_closed_it_begins_no_other_program(compiling):
    step, traced = compiling
    step.compile(_batch(8))
    waiting = threading.Event()
    step._compiler.submit(waiting.wait)
    step.compile_ahead([_batch(16)])
    step.close()
    waiting.set()
    step._compiler.shutdown(wait=True)
    assert {length for length, _ in traced} == {8}
