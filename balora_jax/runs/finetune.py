"""One fine-tuning run, told from top to bottom."""

import contextlib
import time
from typing import Any

import jax
import jax.numpy as jnp
from rich.console import Console

from balora_jax import data
from balora_jax.runs import export
from balora_jax.reporting import console as report
from balora_jax.runs.setup import assemble, load_model, restore_head, restore_initial, take, trained_head
from balora_jax.config import RunConfig
from balora_jax.errors import BadInput
from balora_jax.runs.tasks import TASKS, make_probe
from balora_jax.training.checkpoints import Checkpoints
from balora_jax.training.interrupt import StopRequest
from balora_jax.training.loop import Loop
from balora_jax.training.metrics import MetricsLog
from balora_jax.reporting.progress import ProgressLine
from balora_jax.training.run_folder import RunFolder
from balora_jax.training.sharding import check_batch, make_mesh


def finetune(config: RunConfig, console: Console | None = None) -> dict[str, Any] | None:
    """Trains as configured and writes the run folder.

    Returns:
      What summary.json holds, or None when the run was stopped before its end (and can be gone on with).

    Raises:
      BadInput: the configuration, the model or the data cannot be used; nothing has been written.
      Diverged: the loss is not finite; the last good checkpoint is kept.
    """
    console = console or Console()
    began = time.monotonic()
    with contextlib.ExitStack() as closing:
        if config.mesh.distributed:
            jax.distributed.initialize()
        mesh = make_mesh(config.mesh)
        check_batch(mesh, config.training.batch_size, config.training.accumulation)
        folder = RunFolder(config.output.dir)
        resuming = folder.check(config)

        tokenizer = data.load_tokenizer(config.model.tokenizer or config.model.source, config.model.revision)
        task = TASKS[config.model.task](config, tokenizer)
        for line in task.counts:
            console.print(line, highlight=False)
        steps = config.training.steps or data.steps_for(
            config.training.epochs, task.examples, config.training.batch_size
        )

        loaded = load_model(config, mesh)
        for note in loaded.notes:
            console.print(note, highlight=False)
        data.require_vocabulary(loaded.model.config.vocab_size, *task.sets)
        check_positions(loaded.model.config.max_length, task.length)
        checkpoints = open_checkpoints(folder, config) if resuming else None
        initial = restore_initial(config, checkpoints, loaded, mesh) if checkpoints else None
        head = restore_head(checkpoints, loaded) if checkpoints else None
        with console.status("the pre-trained model: its features, and the principal directions of its weights"):
            loaded = task.prepare(loaded, mesh, steps, head)
            # Copied: in the residual form the weights are overwritten.
            start_head = jax.tree.map(jnp.copy, take(loaded.params, trained_head(loaded)))
            run = assemble(config, loaded, mesh, steps, initial)
        # All is checked: from here on the run writes.
        folder.create(config)
        checkpoints = closing.enter_context(contextlib.closing(checkpoints or open_checkpoints(folder, config)))
        if run.frozen["initial"] and initial is None:
            checkpoints.save_initial(run.frozen["initial"])
        if start_head and head is None:
            checkpoints.save_initial(start_head, "head")

        batches = task.batches(steps)
        start = 0
        if checkpoints.latest() is not None:
            run.state, position = checkpoints.restore(run.state)
            start = position.step
            batches.set_state(position.data)
        log = closing.enter_context(contextlib.closing(MetricsLog(folder.metrics, after=start or -1)))
        evaluate, probe, best = task.evaluate(run, mesh), make_probe(config, run, tokenizer), task.best()
        if start == 0:
            measure_start(log, run.state, evaluate, probe)
        for record in log.records():
            best.take(record)

        compiled = task.compile(run, steps, mesh)
        report.show_start(console, config, run, mesh, steps, start, compiled, task.counted)
        with StopRequest() as stop, ProgressLine(steps, done=start, console=console) as progress:
            loop = Loop(
                step=compiled,
                batches=batches,
                evaluate=evaluate,
                best=best,
                checkpoints=checkpoints,
                log=log,
                show=progress,
                steps=steps,
                save_every=config.output.save_every,
                eval_every=config.training.eval_every,
            )
            run.state, done = loop.run(run.state, start, stop)
        if done < steps and not best.ended:
            report.show_stop(console, folder, done, steps)
            return None

        if config.training.patience is not None:
            run.state, _ = checkpoints.restore(run.state, best.step)
        if probe:
            log.write({"step": done} | {f"probe_{name}": value for name, value in probe(run.state).items()})
        kept = done if config.training.patience is None else best.step
        elsewhere = task.finish(run, mesh, folder)
        seconds = time.monotonic() - began
        summary = report.summarize(config, run, folder, done, kept, best, elsewhere, compiled, seconds)
        export.write_all(folder, config, run, summary)
        report.show_end(console, folder, summary)
    return summary


def measure_start(log: MetricsLog, state: Any, evaluate: Any, probe: Any) -> None:
    """Records what the pre-trained model does, before the first update."""
    if evaluate:
        log.write({"step": 0} | evaluate(state))
    if probe:
        log.write({"step": 0} | {f"probe_{name}": value for name, value in probe(state).items()})


def open_checkpoints(folder: RunFolder, config: RunConfig) -> Checkpoints:
    """The run's checkpoints, as its configuration keeps them."""
    return Checkpoints(folder.checkpoints, config.output.keep)


def check_positions(positions: int | None, length: int) -> None:
    """Raises BadInput when the examples are longer than what the model has positions for; None: it has any number."""
    if positions is not None and length > positions:
        raise BadInput(f"data.max_length makes batches of {length} tokens; accepted: at most the model's {positions}")
