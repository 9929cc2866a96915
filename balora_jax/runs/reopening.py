"""A run's model at one of its checkpoints, for commands that read it."""

import dataclasses
import sys

from balora_jax.config import RunConfig
from balora_jax.errors import BadInput
from balora_jax.runs.fingerprints import weights_fingerprint
from balora_jax.runs.setup import build_setup
from balora_jax.runs.weights import load_model, materialize_frozen
from balora_jax.runs.whole_modules import trained_modules
from balora_jax.training.processes import are_joined, is_first, of_first, require_same, together
from balora_jax.training.run_folder import RunFolder
from balora_jax.training.saved_checkpoints import SavedCheckpoints
from balora_jax.training.setup import Student
from balora_jax.training.sharding import mesh_here
from balora_jax.training.state import TrainState


def reopen(
    folder: RunFolder, config: RunConfig, checkpoint: str
) -> tuple[Student, TrainState, int]:
    """Load a run at a checkpoint, in the delta form, in which the base is the original model.

    Args:
      folder: the run folder.
      config: the configuration of the run.
      checkpoint: a step, latest or best.

    Returns:
      The student, its state without the optimizer's moments, and the step of the checkpoint.

    Raises:
      BadInput: the run has no such checkpoint.
    """
    delta = dataclasses.replace(config.adapter, form="delta")
    config = dataclasses.replace(config, adapter=delta)
    if not folder.checkpoints.is_dir():
        raise BadInput(
            f"{folder.address} has no checkpoints yet; accepted: a run that has saved one"
        )
    require_same({"configuration of the run": config})
    folder.check_fingerprints(weights_fingerprint(config))
    checkpoints = SavedCheckpoints(folder.checkpoints)
    checkpoint = _same_everywhere(checkpoints, checkpoint)
    mesh = mesh_here(config.mesh)
    loaded = load_model(config, mesh)
    head = trained_modules(config, loaded)
    setup = build_setup(config, loaded.model, mesh, steps=1, head=head)
    initial = checkpoints.restore_initial(setup.frozen.initial)
    student = materialize_frozen(
        config, setup, loaded.params, initial, pretrained=loaded.pretrained
    )
    # Under method full the weights that were loaded are no part of the student.
    del loaded
    checkpoints.check_remade(student.frozen.initial)
    state, position = checkpoints.restore_named(setup.state.without_moments, checkpoint)
    for notice in checkpoints.notices:
        print(f"note: {notice}", file=sys.stderr)
    return student, state, position.step


def _same_everywhere(checkpoints: SavedCheckpoints, checkpoint: str) -> str:
    """Return the name of the checkpoint that all processes read: process 0's, whole in each.

    Hosts may have a copy of the run's folder each, and a run may be writing one that they share.
    """
    if not are_joined():
        checkpoints.find(checkpoint)
        return checkpoint
    step = 0
    with together(f"process 0 finds no whole checkpoint {checkpoint!r} of the run"):
        if is_first():
            step = checkpoints.find_whole(checkpoint)
    step = int(of_first(str(step).encode()))
    with together(f"another process has not the checkpoint of step {step} that process 0 has"):
        fault = checkpoints.check(step).fault
        if fault is not None:
            raise BadInput(
                f"the checkpoint of step {step} that process 0 has is not whole in this process "
                f"({fault}); accepted: the same run folder on every host"
            )
    require_same({f"checkpoint of step {step}": checkpoints.contents(step)})
    return str(step)


def say_step(folder: RunFolder, step: int) -> None:
    """Print on the error stream which checkpoint is used, and whether the run has ended."""
    ended = "" if folder.summary.exists() else "has not ended; "
    print(f"{folder.address}: {ended}using its checkpoint of step {step}", file=sys.stderr)
