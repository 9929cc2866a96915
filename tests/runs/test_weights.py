"""The weights of a run are held once, and of a saved state what is evaluated is read alone."""

import dataclasses

import jax
import numpy as np
import pytest

from balora_jax import models
from balora_jax.config.parse import read_config
from balora_jax.runs.setup import build_setup
from balora_jax.runs.weights import materialize, materialize_frozen
from balora_jax.training.checkpoints import Checkpoints
from balora_jax.training.sharding import make_mesh

OPTIMIZERS = {
    "adamw": (),
    "an average": ("--optimizer.ema_decay", "0.9"),
    "schedule-free": (
        "--optimizer.name",
        "schedule_free",
        "--optimizer.schedule",
        "constant",
    ),
}


@pytest.fixture
def started(run_arguments, tiny_llama, tmp_path):
    """(*more arguments) -> (configuration, setup, base) of a run that has not begun."""

    def start(*more):
        config = read_config(run_arguments(tmp_path / "run", *more))
        model = models.load_model(tiny_llama, dtype="float32")
        setup = build_setup(config, model, make_mesh(config.mesh), steps=4)
        return config, setup, models.init_params(model, jax.random.key(0))

    return start


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_moments_are_not_read_to_evaluate(started, tmp_path, optimizer):
    config, setup, base = started(*OPTIMIZERS[optimizer])
    _, state = materialize(config, setup, base)
    state = dataclasses.replace(state, step=state.step + 3)
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=1)
    checkpoints.save(3, state, {}, None)
    checkpoints.wait()

    read, position = checkpoints.restore_named(setup.state.without_moments, "3")
    checkpoints.close()
    assert position.step == read.step == 3
    for left, right in zip(*map(jax.tree.leaves, (state.evaluated, read.evaluated)), strict=True):
        np.testing.assert_array_equal(left, right)
    moments = [leaf for leaf in jax.tree.leaves(read.opt_state) if leaf is ...]
    assert len(moments) >= len(jax.tree.leaves(state.trainable))


def test_reopening_allocates_no_state(started):
    config, setup, base = started("--adapter.init", "pissa", "--adapter.form", "delta")
    student, state = materialize(config, setup, base)
    before = {array.unsafe_buffer_pointer() for array in jax.live_arrays()}
    again = materialize_frozen(config, setup, base, initial=student.frozen.initial)
    after = {array.unsafe_buffer_pointer(): array.nbytes for array in jax.live_arrays()}
    new = sum(size for pointer, size in after.items() if pointer not in before)
    # The factor of the head, for the SVD term, and nothing of the size of a state.
    factor = again.frozen.head_factor
    assert new <= (0 if factor is None else factor.nbytes) + 64
    expected, frozen = student.frozen, again.frozen
    jax.tree.map(np.testing.assert_array_equal, frozen, expected)
    del state


def test_full_fine_tuning_keeps_no_second_copy(started):
    config, setup, base = started("--method", "full")
    leaves = jax.tree.leaves(base)
    values = [np.asarray(leaf).copy() for leaf in leaves]
    _, state = materialize(config, setup, base)
    assert all(leaf.is_deleted() for leaf in leaves)
    jax.tree.map(np.testing.assert_array_equal, jax.tree.leaves(state.trainable), values)
