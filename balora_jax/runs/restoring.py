"""The beginning of a run: all is loaded and checked, and goes on from the last checkpoint."""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from rich.console import Console

from balora_jax import data, models
from balora_jax.config import RunConfig
from balora_jax.errors import BadInput
from balora_jax.evaluation.evaluator import Evaluator
from balora_jax.evaluation.task_probe import TaskProbe
from balora_jax.evaluation.tiny_world.evaluator import make_probe_evaluator
from balora_jax.objective.params import Tree
from balora_jax.regularizers.registration import check_registered
from balora_jax.reporting.console import phase, show_note
from balora_jax.reporting.loggers.starting import NewServices, begin_services, start_loggers
from balora_jax.runs import export
from balora_jax.runs.fingerprints import fingerprints
from balora_jax.runs.first_gradient import first_gradient, needs_gradient
from balora_jax.runs.remat import compile_update
from balora_jax.runs.run import Run, check_lengths
from balora_jax.runs.setup import build_setup
from balora_jax.runs.task import TrainingData
from balora_jax.runs.weights import init_adapters, load_model, materialize
from balora_jax.runs.whole_modules import trained_modules
from balora_jax.training import run_lock
from balora_jax.training.best import Best
from balora_jax.training.checkpoints import Checkpoints
from balora_jax.training.compiled_step import CompiledStep
from balora_jax.training.loop import Batches
from balora_jax.training.metrics import Logger, MetricsLog, read_records
from balora_jax.training.processes import (
    is_first,
    of_first,
    require_everywhere,
    require_same,
    together,
    wait_for_all,
)
from balora_jax.training.records import HeldOutRecord, ProbeRecord
from balora_jax.training.run_lock import RunLock
from balora_jax.training.setup import Student, TrainSetup
from balora_jax.training.state import TrainState
from balora_jax.training.subtrees import select
from balora_jax.training.summary import History
from balora_jax.training.times import Times

# Seconds for which a host may not see what another one has written.
STALE = 60


@dataclasses.dataclass(frozen=True)
class Ready:
    """A run that is ready for its next update.

    Attributes:
      student: the model and its frozen weights.
      state: the state after `start` updates; training overwrites it.
      start: updates done before.
      batches: the training batches from there on.
      compiled: the compiled update.
      checkpoints: the checkpoints of the run.
      log: the log of the run.
      best: the tracker of the best evaluation, with the evaluations of a resumed run.
      probe: the evaluator of the tiny world; None for other data.
      times: counts the time of each kind of work.
    """

    student: Student
    state: TrainState
    start: int
    batches: Batches
    compiled: CompiledStep
    checkpoints: Checkpoints
    log: MetricsLog
    best: Best
    probe: Evaluator | None
    times: Times


def restore(run: Run, lock: RunLock, closing: contextlib.ExitStack, console: Console) -> Ready:
    """Load the model and the checkpoint of a resumed run, and compile the update.

    Args:
      run: from `set_up`.
      lock: the lock on the run folder; a new folder is created and locked here.
      closing: closes the checkpoints and the log when the run ends, also by an exception.
      console: where to print.

    Returns:
      The run, ready for its next update.

    Raises:
      BadInput: the model or the checkpoint cannot be used; nothing has been written, but damaged
        checkpoints have been set aside.
    """
    config = run.config
    times = Times()
    if run.resumes or config.output.overwrite:
        export.check_own(run.folder.adapter)
        export.check_own(run.folder.merged)
    probe = make_probe_evaluator(config.data, run.tokenizer)
    loaded = load_checked(run, console)
    inputs = fingerprints(run)
    require_same({"data, tokenizer or weights": inputs})
    if not config.output.overwrite:
        run.folder.check_fingerprints(inputs)
    head = trained_modules(config, loaded)
    build = functools.partial(
        build_setup, model=loaded.model, mesh=run.mesh, steps=run.steps, head=head
    )
    setup = build(config)
    check_terms(setup)
    models.check_attention_of(setup.model, config.data.max_length)
    if setup.spec.rank != config.adapter.rank and config.method != "full":
        console.print(
            f"note: adapter.init has rank {setup.spec.rank}, which is used instead of "
            f"adapter.rank {config.adapter.rank}",
            highlight=False,
        )

    checkpoints = None
    beginning = Beginning(None, None)
    # A language model's modules are read again from its folder, and are not saved.
    fresh_head = head if setup.frozen.pretrained is None else ()
    if run.resumes:
        checkpoints = closing.enter_context(contextlib.closing(open_checkpoints(run)))
        closing.callback(show_notices, checkpoints, console)
        beginning = Beginning(
            checkpoints.restore_initial(setup.frozen.initial),
            checkpoints.restore_initial(select(loaded.params, fresh_head), "head"),
        )
        show_notices(checkpoints, console)
    with phase(console, "preparing what the teacher gives"):
        training_data = run.task.prepare(loaded, run.mesh, run.steps, beginning.head)
    first_adapters = beginning.adapters
    if first_adapters is None and not needs_gradient(config):
        # The devices decompose the kernels while the update is traced and compiled.
        with phase(console, "preparing the adapters"):
            first_adapters = init_adapters(config, setup, training_data.base)
    with phase(console, "compiling the update"):
        compiled = compile_step(run, setup, build, training_data, times, console)
    closing.callback(compiled.close)
    setup = compiled.setup
    with phase(console, "preparing the state"):
        # A copy, because the residual form overwrites the weights.
        first_head = jax.tree.map(jnp.copy, select(training_data.base, fresh_head))
        student, state = start_student(run, setup, training_data, first_adapters)
        del first_adapters
    if checkpoints:
        check_log(run, checkpoints, console)
        set_aside_after_lost_best(run, checkpoints)

    if run.extended_from is not None:
        console.print(
            f"note: the run is extended from {run.extended_from:,} to {run.steps:,} updates: from "
            "here on its schedules are those of a run of that length",
            highlight=False,
            soft_wrap=True,
        )
    services = None
    if config.output.overwrite and is_first():
        services = begin_services(config, run.folder)
    # All checks are done; from here on the run writes.
    begin_writing(run, lock, inputs)
    if checkpoints is None:
        checkpoints = closing.enter_context(contextlib.closing(open_checkpoints(run)))
    save_beginning(checkpoints, beginning, Beginning(student.frozen.initial, first_head))

    batches = run.task.batches(training_data, run.steps)
    start = 0
    if checkpoints.latest() is not None:
        # Never two states at once.
        del state
    restored = checkpoints.restore_latest(setup.state)
    show_notices(checkpoints, console)
    if restored is not None:
        state, position = restored
        start = position.step
        batches.set_state(position.data)
    log = closing.enter_context(open_log(run, start, services))
    best = run.task.best()
    if start == 0:
        with times.spent_on("evaluation"):
            record_start(run, student, state, log, probe, console)
    for record in History.of(log.records()).held_out:
        best.update(record)

    return Ready(student, state, start, batches, compiled, checkpoints, log, best, probe, times)


def open_log(run: Run, start: int, services: NewServices | None = None) -> MetricsLog:
    """Open the log of a run, and start its loggers on process 0.

    Args:
      run: from `set_up`; its folder exists.
      start: updates done before.
      services: of the loggers, where they have been started already.

    Returns:
      The log, which is to be entered.

    Raises:
      BadInput: a logger cannot be started.
    """
    loggers: list[Logger] = []
    if is_first():
        loggers = start_loggers(run.config, run.folder, start, services)
    with contextlib.ExitStack() as failing:
        for logger in loggers:
            failing.callback(logger.close, "failed", None)
        # A run that resumes before its first checkpoint drops all records, also those of step 0,
        # which are made again.
        log = MetricsLog(run.folder.metrics, after=start or -1, loggers=loggers, writes=is_first())
        failing.pop_all()
    return log


class Beginning(NamedTuple):
    """The trained parts of the model as they are at step 0, from which a resumed run must start.

    Attributes:
      adapters: the tree of adapters; None if unknown, or if none are trained.
      head: the tree of the trained head; likewise.
    """

    adapters: Tree | None
    head: Tree | None


def load_checked(run: Run, console: Console) -> models.Loaded:
    """Load the model, and check that it takes the run's tokens and lengths.

    Args:
      run: from `set_up`.
      console: where to print what was noticed about the data and the model.

    Returns:
      The model and its weights.

    Raises:
      BadInput: the model cannot be used for this data.
    """
    if run.mesh_note is not None:
        show_note(console, run.mesh_note)
    for line in run.task.counts:
        console.print(line, highlight=False)
    with phase(console, f"loading {run.config.model.source}"):
        loaded = load_model(run.config, run.mesh)
    for note in loaded.notes:
        console.print(note, highlight=False)
    data.require_vocabulary(loaded.model.config.vocab_size, *run.task.sets)
    check_lengths(loaded.model.config.max_length, run.task.length)
    if isinstance(run.task.evaluator, TaskProbe):
        run.task.evaluator.check_room(loaded.model)
    return loaded


def begin_writing(run: Run, lock: RunLock, inputs: dict[str, str]) -> None:
    """Lock the run folder and write the configuration there.

    Args:
      run: from `set_up`.
      lock: the lock on the folder; a resumed run holds it already.
      inputs: the fingerprints of the run's inputs.

    Raises:
      BadInput: another process writes in the folder, or has begun a run there, or hosts do not
        share it.
    """
    wait_for_all("the checks of a run")
    lock.acquire()
    bucket = run.folder.bucket
    # Each process has its own copy of a bucket.
    if is_first() or bucket is not None:
        if run.config.output.overwrite:
            run.folder.clear()
        elif not run.resumes:
            require_new(run)
        if run.extended_from is not None:
            run.folder.begin_extension(run.extended_from)
    run.folder.create(run.config, inputs)
    if bucket is not None:
        with together(f"process 0 cannot begin in {bucket.address}"):
            if is_first():
                bucket.claim()
    wait_for_all("the folder of a run")
    if bucket is None:
        require_shared(run)


def require_shared(run: Run) -> None:
    """Check that all processes see one folder: that in which process 0 has its lock.

    Args:
      run: from `set_up`; its folder is locked.

    Raises:
      BadInput: hosts do not share it.
    """
    seen = of_first(run_lock.holder(run.folder.path).encode()).decode()
    end = time.monotonic() + STALE
    # A network's file system may answer from what it knew.
    while run_lock.holder(run.folder.path) != seen and time.monotonic() < end:
        time.sleep(1)
    require_everywhere(
        run_lock.holder(run.folder.path) == seen,
        f"output.dir {run.folder.path} is another folder on some hosts; accepted: one that all "
        "hosts see, or one in a bucket",
    )


def save_beginning(checkpoints: Checkpoints, saved: Beginning, made: Beginning) -> None:
    """Save the parts of step 0 that were made in this process.

    Args:
      checkpoints: of the run.
      saved: the parts that were read from there.
      made: the parts that the run starts with.
    """
    if saved.adapters is None and made.adapters is not None:
        checkpoints.save_initial(made.adapters)
    if saved.head is None and made.head:
        checkpoints.save_initial(made.head, "head")


def require_new(run: Run) -> None:
    """Raise BadInput if a run has begun in the folder since `set_up` found none there."""
    if run.folder.check(run.config):
        raise BadInput(
            f"output.dir {run.folder.address} was empty at the start of this run, and another run "
            "has begun there; accepted: another folder"
        )


def show_notices(checkpoints: Checkpoints, console: Console) -> None:
    """Print what was found wrong with the checkpoints, once."""
    for notice in checkpoints.notices:
        console.print(f"note: {notice}", highlight=False, soft_wrap=True)
    checkpoints.notices.clear()


def check_log(run: Run, checkpoints: Checkpoints, console: Console) -> None:
    """Check the log of a resumed run, before anything is written.

    A run with patience needs all of its records; others go on without, with a notice.

    Raises:
      BadInput: a line is no record, or the record of an update before the latest checkpoint is
        missing in a run with patience.
    """
    step = checkpoints.latest() or 0
    recorded = {record.step for record in History.of(read_records(run.folder.metrics)).steps}
    lost = [number for number in range(1, step + 1) if number not in recorded]
    if not lost:
        return
    sentence = f"{run.folder.metrics} has no record of update {lost[0]} ({len(lost)} are missing)"
    has_ended = step >= run.steps and len(lost) == step
    if run.config.training.patience is not None or has_ended:
        raise BadInput(
            f"{sentence}, which the end of this run needs; accepted: the file as the run wrote it, "
            "or balora export"
        )
    console.print(f"note: {sentence}; the run goes on", highlight=False, soft_wrap=True)


def set_aside_after_lost_best(run: Run, checkpoints: Checkpoints) -> None:
    """Go back before the best evaluation of a run with patience if its checkpoint is lost.

    That checkpoint is what the run exports: it must be made again.
    """
    latest = checkpoints.latest()
    if run.config.training.patience is None or latest is None:
        return
    best = run.task.best()
    for record in History.of(read_records(run.folder.metrics)).held_out:
        if record.step <= latest:
            best.update(record)
    if best.step is None or best.step in checkpoints.steps():
        return
    for step in checkpoints.steps():
        if step > best.step:
            checkpoints.set_aside(step, f"the best one, of step {best.step}, must be made again")


def start_student(
    run: Run, setup: TrainSetup, training_data: TrainingData, initial: Tree | None
) -> tuple[Student, TrainState]:
    """Fill the setup with weights, after the gradient of a first batch if the start needs it.

    Args:
      run: from `set_up`.
      setup: the run's setup.
      training_data: the base and the examples.
      initial: the adapters of step 0; None for those that a first gradient makes.

    Returns:
      The student and its state before step 1.
    """
    config = run.config
    base = training_data.base
    gradient = None
    if needs_gradient(config) and initial is None:
        first_batch = next(run.task.batches(training_data, run.steps))
        gradient = first_gradient(config, setup, base, first_batch)
    return materialize(config, setup, base, initial, gradient, training_data.pretrained)


def check_terms(setup: TrainSetup) -> None:
    """Check the registered terms on random logits of the model's size.

    Raises:
      BadInput: a function fails, or returns another shape or numbers that are not finite.
    """
    classes = getattr(setup.model, "labels", None)
    if classes is None:
        check_registered(setup.terms, (2, 3), setup.model.config.vocab_size)
    else:
        check_registered(setup.terms, (6,), classes)


def record_start(
    run: Run,
    student: Student,
    state: TrainState,
    log: MetricsLog,
    probe: Evaluator | None,
    console: Console,
) -> None:
    """Measure the model before the first update.

    Args:
      run: from `set_up`.
      student: the model and its frozen weights.
      state: the state of step 0.
      log: the log of the run.
      probe: the evaluator of the tiny world, or None.
      console: where to print.
    """
    if run.task.evaluator is not None:
        with phase(console, "measuring the model before the first update"):
            measures = run.task.evaluator(student, state)
        log.write(HeldOutRecord.of_measures(0, measures))
    if probe is not None:
        log.write(ProbeRecord(0, probe(student, state)))


def compile_step(
    run: Run,
    setup: TrainSetup,
    build: Callable[[RunConfig], TrainSetup],
    training_data: TrainingData,
    times: Times,
    console: Console,
) -> CompiledStep:
    """Compile the update for the longest batches of the run, and begin with the others.

    Args:
      run: from `set_up`.
      setup: the run's setup, under training.remat auto with the first policy.
      build: makes the setup of a configuration.
      training_data: from the task.
      times: counts the time in which a program was waited for.
      console: where to print what was noticed.

    Returns:
      The compiled update, with its setup.
    """
    longest, *others = run.task.batch_kinds(training_data, run.steps)
    compiled = compile_update(run.config, setup, build, longest, times, console, run.device_memory)
    compiled.compile_ahead(others)
    return compiled


def open_checkpoints(run: Run) -> Checkpoints:
    """Open the checkpoints of a run.

    Args:
      run: from `set_up`.
    """
    return Checkpoints(run.folder.checkpoints, run.config.output.keep, run.folder.bucket)
