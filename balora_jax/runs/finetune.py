"""One fine-tuning run, from top to bottom: set up, restore, train, finish."""

import contextlib
import dataclasses
import functools
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console

from balora_jax.config import RunConfig
from balora_jax.config.options import read_options
from balora_jax.reporting import console as screen
from balora_jax.reporting.progress import ProgressLine
from balora_jax.runs import copies, export
from balora_jax.runs.compiled_programs import compiled_programs
from balora_jax.runs.meeting import meet
from balora_jax.runs.push import check_push, push_run
from balora_jax.runs.restoring import Ready, restore
from balora_jax.runs.result import Result, result_of
from balora_jax.runs.run import Run, set_up
from balora_jax.runs.setup import teacher_passes
from balora_jax.training import processes
from balora_jax.training.interrupt import StopRequest, ends_by_signal
from balora_jax.training.loop import Loop
from balora_jax.training.precision import product_precision
from balora_jax.training.profile import Profile
from balora_jax.training.records import ProbeRecord, Record
from balora_jax.training.run_folder import RunFolder
from balora_jax.training.state import TrainState, count
from balora_jax.training.summary import History, Summary
from balora_jax.training.utilization import flops_per_token, multiplied_parameters, utilization

# What a signal that ends the command at once means, in each part of a run: the ends of the sentence
# `stopped by SIGTERM ...`.
LOADING = "before the first update; nothing was trained, and the same command starts it again"
TRAINING = "again; the last checkpoint is kept, and --output.resume goes on from it"
FINISHING = "after the last update; every update is saved, and --output.resume writes the outputs"
CLOSING = "while its files were closed; --output.resume goes on from what is complete"

# Called with a record of an update or an evaluation; True asks for a stop. One that has a method
# `begin` gets the updates done before and those of the whole run first, as a progress bar needs.
Callback = Callable[[Record], bool | None]


def finetune(
    config: RunConfig | Mapping[str, Any],
    console: Console | None = None,
    *,
    callbacks: Sequence[Callback] = (),
) -> Result | None:
    """Run a configuration from start to end, and write the run folder.

    Args:
      config: the configuration of the run; or its options, such as {"model.source": "my_model",
        "training": {"steps": 100}}.
      console: where to print; standard output by default.
      callbacks: each is called with every record, of an update or an evaluation; one that returns
        True asks the run to save and stop. Where it has a method `begin`, that is called first,
        with the updates done before and the updates of the whole run.

    Returns:
      The trained model and the content of summary.json; None if the run was stopped before its end
      and can be resumed.

    Raises:
      BadInput: the configuration, the model or the data cannot be used; nothing has been written.
      Diverged: the loss is not finite; the last good checkpoint is kept.
      OutputError: all is written, but the adapter could not be pushed to the hub.
    """
    if isinstance(config, Mapping):
        config = read_options(config)
    console = console or screen.plain_console()
    start_time = time.monotonic()
    precise = product_precision(config.training.precision)
    with ends_by_signal(CLOSING), precise, contextlib.ExitStack() as closing:
        meet(config)
        if not processes.is_first():
            console.print(processes.place(), highlight=False)
            console = Console(quiet=True)
        notify = functools.partial(screen.show_note, console)
        closing.enter_context(compiled_programs(config.output.compilation_cache, notify))
        with ends_by_signal(LOADING):
            say = functools.partial(console.print, highlight=False, soft_wrap=True)
            lock = closing.enter_context(copies.writing(config.output.dir, say))
            folder = RunFolder(config.output.dir)
            if config.output.resume and not folder.config.exists():
                notify(f"{folder.address} holds no run to resume: it starts there")
            if config.output.push_to is not None:
                check_push(config.output.push_to, private=config.output.push_private)
            run = set_up(config)
            ready = restore(run, lock, closing, console)
        with ends_by_signal(TRAINING):
            trained = train(run, ready, console, callbacks)
            with ready.times.spent_on("save"):
                ready.checkpoints.wait()
        if trained.stopped:
            screen.show_stop(console, run.folder, trained.steps, run.steps, config.plugin_files)
            return None
        with ends_by_signal(FINISHING):
            state, summary = finish(run, ready, trained, console, start_time)
            if config.output.push_to is not None:
                push_run(config, run.folder, console)
    return result_of(config, ready.student, state, summary.step_kept, summary)


@dataclasses.dataclass(frozen=True)
class Trained:
    """A run after its last update.

    Attributes:
      state: the state after `steps` updates.
      steps: updates done.
      stopped: True if the run was stopped before its end.
    """

    state: TrainState
    steps: int
    stopped: bool


def train(run: Run, ready: Ready, console: Console, callbacks: Sequence[Callback] = ()) -> Trained:
    """Train until the end of the run, or until a signal asks for a stop.

    Args:
      run: from `set_up`.
      ready: from `restore`; its state is overwritten.
      console: where to print.
      callbacks: called with every record.

    Returns:
      The run after its last update.

    Raises:
      Diverged: the loss is not finite.
    """
    config = run.config
    student = ready.student
    screen.show_start(
        console,
        config,
        student,
        ready.state,
        ready.compiled,
        start=ready.start,
        steps=run.steps,
        counted=run.task.counted,
        layout=run.task.layout,
    )
    for callback in callbacks:
        if hasattr(callback, "begin"):
            callback.begin(ready.start, run.steps)
    evaluate = None
    if run.task.evaluator is not None:
        evaluate = functools.partial(run.task.evaluator, student)
    with (
        StopRequest() as stop,
        Profile(config.training.profiled, run.folder.tensorboard) as profile,
        ProgressLine(run.steps, done=ready.start, console=console) as progress,
    ):
        loop = Loop(
            step=lambda state, batch: ready.compiled(state, student.frozen, batch),
            batches=ready.batches,
            evaluate=evaluate,
            best=ready.best,
            checkpoints=ready.checkpoints,
            log=ready.log,
            show=functools.partial(show_or_stop, progress, stop, callbacks),
            times=ready.times,
            profile=profile,
            steps=run.steps,
            save_every=config.output.save_every,
            eval_every=config.training.eval_every,
        )
        state, done = loop.run(ready.state, ready.start, stop)
    if config.training.profile is not None:
        where = "was not made: they were not run now"
        if profile.has_traced:
            where = f"is in {run.folder.tensorboard}"
        note = f"the trace of updates {config.training.profile} {where}"
        console.print(note, highlight=False, soft_wrap=True)
    stopped = done < run.steps and not ready.best.ended
    return Trained(state, done, stopped)


def show_or_stop(
    progress: ProgressLine, stop: StopRequest, callbacks: Sequence[Callback], record: Record
) -> None:
    """Show a record; ask for a stop where a callback does, or nobody reads the output any more.

    Args:
      progress: shows it.
      stop: asks to stop after the current update, with a checkpoint.
      callbacks: called with the record.
      record: of an update or an evaluation.
    """
    try:
        progress(record)
    except BrokenPipeError:
        if not stop.given:
            print("balora: nobody reads the output: the run is saved and stops", file=sys.stderr)
        stop.given = True
    for callback in callbacks:
        if callback(record):
            stop.given = True


def finish(
    run: Run, ready: Ready, trained: Trained, console: Console, start_time: float
) -> tuple[TrainState, Summary]:
    """Measure the trained model and write the outputs of the run.

    With training.patience the best checkpoint is exported, otherwise the last one.

    Args:
      run: from `set_up`.
      ready: from `restore`.
      trained: from `train`.
      console: where to print.
      start_time: the time.monotonic() at which the run started.

    Returns:
      The exported state, and the results of the run.
    """
    state = trained.state
    kept = trained.steps
    if run.config.training.patience is not None:
        kept = ready.best.step
        exported = ready.student.setup.state.without_moments
        state, _ = ready.checkpoints.restore_named(exported, str(kept))
    if ready.probe is not None:
        findings = ready.probe(ready.student, state)
        ready.log.write(ProbeRecord(trained.steps, findings))
    with ready.times.spent_on("evaluation"):
        metrics_ood = run.task.finish(ready.student, state, run.folder.predictions)

    history = History.of(ready.log.records())
    seconds = time.monotonic() - start_time
    summary = summarize(run, ready, state, history, trained.steps, kept, metrics_ood, seconds)
    export.write_all(run, ready.student, state, history, summary)
    ready.log.finish(summary.to_json())
    merged = run.config.output.merge or run.config.method == "full"
    screen.show_end(console, run.folder, history, summary, merged=merged)
    return state, summary


def summarize(
    run: Run,
    ready: Ready,
    state: TrainState,
    history: History,
    steps: int,
    kept: int,
    metrics_ood: dict[str, float],
    seconds: float,
) -> Summary:
    """Collect the results of a run.

    Args:
      run: from `set_up`.
      ready: from `restore`.
      state: the exported state.
      history: the records of the run.
      steps: updates done.
      kept: the step whose weights are exported.
      metrics_ood: the measures on out-of-domain sets.
      seconds: the duration of the whole run.

    Returns:
      The content of summary.json.
    """
    first = history.steps[0]
    last = history.steps[-1]
    evaluation = next((record for record in history.held_out if record.step == kept), None)
    # The first step is left out, because its time includes other work.
    timed = history.steps[1:]
    speed = _median(record.tokens_per_second for record in timed)
    counted = [record for record in timed if record.response_tokens is not None]
    counted_speed = _median(
        record.tokens_per_second * record.response_tokens / record.tokens for record in counted
    )
    setup = ready.student.setup
    flops = flops_per_token(
        multiplied_parameters(setup.model, ready.student.params(state).base),
        method=run.config.method,
        teacher=teacher_passes(run.config, setup.terms),
    )
    probes = {}
    if history.probes:
        before = history.probes[0].findings
        after = history.probes[-1].findings
        # A resumed run may have other probes.
        probes = {name: [before[name], after[name]] for name in before if name in after}
    return Summary(
        method=run.config.method,
        model=run.config.model.source,
        steps=steps,
        step_kept=kept,
        parameters_trained=count(state.trainable),
        parameters_frozen=count(ready.student.frozen.base),
        loss_first=first.loss,
        loss_last=last.loss,
        eval_loss_first=history.held_out[0].loss if history.held_out else None,
        eval_loss_last=evaluation.loss if evaluation else None,
        metrics=evaluation.metrics if evaluation else {},
        metrics_ood=metrics_ood,
        score=ready.best.score(evaluation) if evaluation else None,
        probes=probes,
        terms={name: [first.terms[name], last.terms[name]] for name in last.terms},
        tokens_per_second=round(speed, 1),
        counted_tokens_per_second=round(counted_speed, 1) if counted else None,
        utilization=utilization(flops * speed, run.mesh.devices.flatten().tolist()),
        seconds_by_kind={kind: round(time, 2) for kind, time in ready.times.seconds.items()},
        lengths_compiled=ready.compiled.lengths,
        compile_seconds=round(ready.compiled.seconds, 2),
        device_bytes=ready.compiled.bytes,
        seconds=round(seconds, 1),
        memory_host_peak=_largest(record.memory_host for record in history.steps),
        memory_device_peak=_largest(record.memory_device_peak for record in history.steps),
    )


def _median(values: Iterable[float]) -> float:
    """The median; 0 of no values."""
    return float(statistics.median([*values] or [0.0]))


def _largest(values: Iterable[int | None]) -> int | None:
    """The largest of values that are known; None if none is."""
    return max((value for value in values if value is not None), default=None)
