"""One fine-tuning run, told from top to bottom."""

import contextlib
import time
from typing import Any

import jax
from rich.console import Console

from balora_jax import data, outputs, report
from balora_jax.assembly import assemble, load_model, restore_initial
from balora_jax.config import RunConfig
from balora_jax.errors import BadInput
from balora_jax.programs import compile_step, make_evaluate, make_probe
from balora_jax.training.checkpoints import Checkpoints
from balora_jax.training.interrupt import StopRequest
from balora_jax.training.loop import Loop
from balora_jax.training.metrics import MetricsLog
from balora_jax.training.progress import ProgressLine
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
        train, held_out = load_examples(config, tokenizer, console)
        sets = [train] if held_out is None else [train, held_out]
        length = data.padded_length(*sets, max_length=config.data.max_length)
        steps = config.training.steps or data.steps_for(config.training.epochs, len(train), config.training.batch_size)

        model, base = load_model(config, mesh)
        data.require_vocabulary(model.config.vocab_size, *sets)
        check_positions(model.config.max_positions, length)
        checkpoints = open_checkpoints(folder, config) if resuming else None
        initial = restore_initial(config, checkpoints, base, mesh) if checkpoints else None
        with console.status("adapters: the principal directions of the weights"):
            run = assemble(config, model, base, mesh, steps, initial)
        # All is checked: from here on the run writes.
        folder.create(config)
        checkpoints = closing.enter_context(contextlib.closing(checkpoints or open_checkpoints(folder, config)))
        if run.frozen["initial"] and initial is None:
            checkpoints.save_initial(run.frozen["initial"])

        batches = data.train_batches(train, config.training.batch_size, length, config.training.seed)
        start = 0
        if checkpoints.latest() is not None:
            run.state, position = checkpoints.restore(run.state)
            start = position.step
            batches.set_state(position.data)
        log = closing.enter_context(contextlib.closing(MetricsLog(folder.metrics, after=start or -1)))
        evaluate = make_evaluate(config, run, held_out, length, mesh) if held_out else None
        probe = make_probe(config, run, tokenizer)
        if start == 0:
            measure_start(log, run.state, evaluate, probe)

        compiled = compile_step(config, run, steps, length, mesh)
        report.show_start(console, config, run, mesh, steps, start, compiled)
        with StopRequest() as stop, ProgressLine(steps, done=start, console=console) as progress:
            loop = Loop(
                step=compiled.step,
                batches=batches,
                evaluate=evaluate,
                checkpoints=checkpoints,
                log=log,
                show=progress,
                steps=steps,
                save_every=config.output.save_every,
                eval_every=config.training.eval_every,
            )
            run.state, done = loop.run(run.state, start, stop)
        if done < steps:
            report.show_stop(console, folder, done, steps)
            return None

        if probe:
            log.write({"step": done} | {f"probe_{name}": value for name, value in probe(run.state).items()})
        summary = report.summarize(config, run, folder, steps, compiled, time.monotonic() - began)
        outputs.write_all(folder, config, run, summary)
        report.show_end(console, folder, summary)
    return summary


def measure_start(log: MetricsLog, state: Any, evaluate: Any, probe: Any) -> None:
    """Records what the pre-trained model does, before the first update."""
    if evaluate:
        log.write({"step": 0, "eval_loss": evaluate(state)})
    if probe:
        log.write({"step": 0} | {f"probe_{name}": value for name, value in probe(state).items()})


def open_checkpoints(folder: RunFolder, config: RunConfig) -> Checkpoints:
    """The run's checkpoints, as its configuration keeps them."""
    return Checkpoints(folder.checkpoints, config.output.keep)


def load_examples(config: RunConfig, tokenizer: Any, console: Console) -> tuple[Any, Any]:
    """The training examples and the held-out ones (or None), with what was dropped or truncated said."""
    train = data.prepare(config.data, tokenizer, split="train")
    console.print(f"train: {train.counts}", highlight=False)
    if config.data.eval is None:
        return train, None
    held_out = data.prepare(config.data, tokenizer, split="eval")
    console.print(f"eval:  {held_out.counts}", highlight=False)
    return train, held_out


def check_positions(positions: int, length: int) -> None:
    """Raises BadInput when the examples are longer than what the model has positions for."""
    if length > positions:
        raise BadInput(f"data.max_length makes batches of {length} tokens; accepted: at most the model's {positions}")
