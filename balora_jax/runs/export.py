"""What a run leaves for others: the PEFT adapter, and the model with the adapters folded in."""

import contextlib
import dataclasses
import json
import pathlib
from typing import Any

import jax
from jax.experimental import multihost_utils

from balora_jax import adapters, data, models
from balora_jax.reporting import plots
from balora_jax.adapters import peft_format
from balora_jax.runs.setup import Assembly, assemble, label_count, load_model, restore_initial, take
from balora_jax.config import RunConfig
from balora_jax.errors import BadInput
from balora_jax.reporting.model_card import model_card
from balora_jax.training.checkpoints import Checkpoints
from balora_jax.training.run_folder import RunFolder, write_whole
from balora_jax.training.sharding import make_mesh
from balora_jax.training.state import TrainState, combine

Tree = Any


def write_all(folder: RunFolder, config: RunConfig, run: Assembly, summary: dict[str, Any]) -> None:
    """Writes adapter/ and its card (none under method full), plots/, merged/ where asked for, summary.json last."""
    if config.method != "full":
        write_adapter(folder.adapter, config, run, run.state)
    if config.output.merge or config.method == "full":
        write_merged(folder.merged, config, run, run.state)
    if jax.process_index() == 0:
        if config.method != "full":
            rank = run.spec.rank * (2 if run.frozen["initial"] else 1)
            card = model_card(config, summary, rank, label_count(config), missing_pad(config, run))
            (folder.adapter / "README.md").write_text(card)
        plots.draw(folder.metrics, folder.plots)
        write_whole(folder.summary, json.dumps(summary, indent=2) + "\n")


def write_adapter(path: pathlib.Path, config: RunConfig, run: Assembly, state: TrainState) -> None:
    """Writes a PEFT folder: a plain LoRA on the untouched base, and a classifier's head."""
    change, base = _on_host(run.change(state)), run.base(state)
    head = _on_host(take(base, run.head))
    if jax.process_index() == 0:
        model = config.model
        peft_format.export_adapter(
            path,
            change,
            base,
            base=model.source,
            task=model.task,
            revision=model.revision,
            fan_in_fan_out=run.model.config.model_type == "gpt2",
            head=models.head_tensors(run.model, head),
            head_modules=[".".join(module) for module in run.head],
        )


def write_merged(path: pathlib.Path, config: RunConfig, run: Assembly, state: TrainState) -> None:
    """Writes a Hugging Face folder of the fine-tuned model."""
    params = combine(state.trainable, run.frozen, run.mask)
    base = params["base"]
    if config.method != "full":
        lora = adapters.student_lora(params["adapters"], params["initial"] or None, run.spec)
        base = jax.jit(adapters.merge)(base, lora)
    base, labels = _on_host(base), label_count(config)
    if jax.process_index() == 0:
        section, classes = config.model, () if labels is None else data.text_task(config.data).labels
        does = {"task": section.task, "num_labels": labels, "label_names": classes}
        does |= {"pad_token_id": missing_pad(config, run)}
        models.save_pretrained(path, base, source=section.source, revision=section.revision, **does)


def missing_pad(config: RunConfig, run: Assembly) -> int | None:
    """The token a classifier's batches were filled up with, where its own configuration names none; else None."""
    if label_count(config) is None or run.model.config.pad_token_id is not None:
        return None
    return data.load_tokenizer(config.model.tokenizer or config.model.source, config.model.revision).pad_token_id


def export_run(run: str, checkpoint: str, out: str | None) -> pathlib.Path:
    """Writes a finished or stopped run's adapter again, from one of its checkpoints; returns the folder."""
    folder = RunFolder(run)
    config = folder.read_config()
    if config.method == "full":
        raise BadInput(f"{run} trained every weight (method full) and has no adapter; accepted: balora merge")
    path = _target(out, folder.adapter)
    assembly, state, _ = reopen(folder, config, checkpoint)
    write_adapter(path, config, assembly, state)
    return path


def merge_run(run: str, checkpoint: str, out: str | None) -> pathlib.Path:
    """Writes a finished or stopped run's whole model, from one of its checkpoints; returns the folder."""
    folder = RunFolder(run)
    config = folder.read_config()
    path = _target(out, folder.merged)
    assembly, state, _ = reopen(folder, config, checkpoint)
    write_merged(path, config, assembly, state)
    return path


def reopen(folder: RunFolder, config: RunConfig, checkpoint: str) -> tuple[Assembly, TrainState, int]:
    """A run as it stood at a checkpoint: (parts, state, step); in the delta form, so the base is the model's own."""
    config = dataclasses.replace(config, adapter=dataclasses.replace(config.adapter, form="delta"))
    if not folder.checkpoints.is_dir():
        raise BadInput(f"{folder.path} has no checkpoints yet; accepted: a run that has saved one")
    with contextlib.closing(Checkpoints(folder.checkpoints, config.output.keep)) as checkpoints:
        step = checkpoints.find(checkpoint)
        mesh = make_mesh(config.mesh)
        loaded = load_model(config, mesh)
        assembly = assemble(config, loaded, mesh, 1, restore_initial(config, checkpoints, loaded, mesh))
        state, _ = checkpoints.restore(assembly.state, step)
    return assembly, state, step


def _target(out: str | None, default: pathlib.Path) -> pathlib.Path:
    path = default if out is None else pathlib.Path(out).expanduser()
    if out is not None and path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise BadInput(f"--out {path} exists and is not empty; accepted: a new or empty folder")
    return path


def _on_host(tree: Tree) -> Tree:
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)
