"""The outputs of a run: the PEFT adapter, and the model with the adapters merged."""

import json
import os
import pathlib
import sys
from typing import Any, NamedTuple

import jax

from balora_jax import adapters, data, models
from balora_jax.adapters import peft_format
from balora_jax.config import RunConfig
from balora_jax.config.export import ExportOptions, MergeOptions
from balora_jax.errors import BadInput, listed
from balora_jax.hosts import on_host
from balora_jax.reporting import plots
from balora_jax.reporting.audit_section import audit_of, with_audit
from balora_jax.reporting.model_card import CARD_FILE, CardResults, model_card, read_card
from balora_jax.runs.new_folders import check_new_folder, replacing_folder
from balora_jax.runs.reopening import reopen, say_step
from balora_jax.runs.run import Run
from balora_jax.runs.setup import label_count
from balora_jax.training.metrics import read_records
from balora_jax.training.replacing import write_whole
from balora_jax.training.run_folder import RunFolder
from balora_jax.training.setup import Student
from balora_jax.training.state import TrainState
from balora_jax.training.subtrees import select
from balora_jax.training.summary import History, Summary

Tree = Any
# In every card of ours.
PACKAGE = b"balora-jax"


class Change(NamedTuple):
    """The learned change of a run, to write as an adapter.

    Attributes:
      lora: the `lora` collection on the original base, on the host.
      base: the parameters, for the names of all layers.
      head: the modules that were trained whole, on the host.
    """

    lora: Tree
    base: Tree
    head: Tree


def write_all(
    run: Run, student: Student, state: TrainState, history: History, summary: Summary
) -> None:
    """Write adapter/ with its card, plots/, merged/ if configured, and summary.json last.

    Under method full there is no adapter, and merged/ is always written.

    Args:
      run: the run.
      student: the model and its frozen weights.
      state: the state to export.
      history: the records of the run.
      summary: the results of the run.
    """
    config = run.config
    folder = run.folder
    full = config.method == "full"
    if not full:
        card = _card(config, student, CardResults.of_summary(summary))
        change = learned_change(student, state)
        write_adapter(folder.adapter, config, student, change, card.encode())
    if config.output.merge or full:
        write_merged(folder.merged, config, student, state)
    if jax.process_index() != 0:
        return
    plots.draw(history, folder.plots)
    write_whole(folder.summary, json.dumps(summary.to_json(), indent=2) + "\n")


def write_adapter(
    path: pathlib.Path,
    config: RunConfig,
    student: Student,
    change: Change,
    card: bytes,
    *,
    new: bool = False,
) -> None:
    """Write a PEFT folder: a plain LoRA on the original base, modules trained whole, the tokenizer.

    Args:
      path: the folder, which is replaced as a whole.
      config: the run.
      student: the model and its frozen weights.
      change: what was learned.
      card: the content of README.md.
      new: whether the folder must be new or empty.
    """
    if jax.process_index() != 0:
        return
    with replacing_folder(path, new=new) as beside:
        peft_format.export_adapter(
            beside,
            change.lora,
            change.base,
            base=config.model.source,
            task=config.model.task,
            revision=config.model.revision,
            fan_in_fan_out=student.model.config.model_type == "gpt2",
            full_names=student.model.is_part,
            head=models.head_tensors(student.model, change.head),
            head_modules=[".".join(module) for module in student.setup.head],
        )
        models.copy_tokenizer(config.model.tokenizer_source, beside, config.model.revision)
        (beside / CARD_FILE).write_bytes(card)


def learned_change(student: Student, state: TrainState, scale: float = 1.0) -> Change:
    """Return the learned change at a state, or a part of it, on the host.

    Args:
      student: the model and its frozen weights.
      state: the state.
      scale: the part of the change.
    """
    base = student.params(state).base
    lora = on_host(adapters.scale_change(student.delta_lora(state), scale))
    return Change(lora, base, on_host(select(base, student.setup.head)))


def write_merged(
    path: pathlib.Path,
    config: RunConfig,
    student: Student,
    state: TrainState,
    scale: float = 1.0,
    *,
    new: bool = False,
) -> None:
    """Write a Hugging Face folder of the fine-tuned model.

    Args:
      path: the folder, which is replaced as a whole.
      config: the run.
      student: the model and its frozen weights.
      state: the state to export.
      scale: the part of the learned change that is kept; other than 1 in the delta form alone.
      new: whether the folder must be new or empty.
    """
    base = student.params(state).base
    if config.method != "full":
        lora = student.lora(state)
        # Not multiplied by 1 either: the residual form's is no change of the base.
        lora = lora if scale == 1 else adapters.scale_change(lora, scale)
        base = adapters.merged_when_read(base, lora)
    if jax.process_index() != 0:
        # Process 0 writes, and needs the parts that are here.
        models.gather_tensors(student.model, base)
        return
    labels = label_count(config)
    with replacing_folder(path, new=new) as beside:
        models.save_pretrained(
            beside,
            base,
            source=config.model.source,
            revision=config.model.revision,
            task=config.model.task,
            num_labels=labels,
            label_names=() if labels is None else data.text_task(config.data).labels,
            pad_token_id=missing_pad_id(config, student),
        )


def missing_pad_id(config: RunConfig, student: Student) -> int | None:
    """Return the token that padded a classifier's batches, if its configuration has none.

    Args:
      config: the run.
      student: the model and its frozen weights.

    Returns:
      The token id; None for a language model, or if the model's configuration has one.
    """
    if label_count(config) is None or student.model.config.pad_token_id is not None:
        return None
    return data.load_tokenizer(config.model.tokenizer_source, config.model.revision).pad_token_id


def export_run(options: ExportOptions) -> pathlib.Path:
    """Write the adapter of a finished or stopped run, from one of its checkpoints.

    Args:
      options: the run, its checkpoint, and what to write where.

    Returns:
      The folder of the adapter.

    Raises:
      BadInput: the folder holds no run, or the run has no adapter or no such checkpoint.
    """
    folder = RunFolder(options.run)
    config = folder.read_config()
    if config.method == "full":
        raise BadInput(
            f"{options.run} trained every weight (method full) and has no adapter; accepted: "
            "balora merge"
        )
    _check_scale(options, config)
    path = _target(options.out, folder.adapter)
    student, state, step = reopen(folder, config, options.checkpoint)
    scale, rank = options.scale, options.rank
    change = learned_change(student, state, scale)
    compressed = None
    if rank is not None:
        _check_rank(rank, _rank_of(student))
        compressed = adapters.compress(change.lora, rank)
        change = change._replace(lora=compressed.lora)
    card = _card_of_step(folder, config, student, step, scale, rank, compressed).encode()
    say_step(folder, step)
    if compressed is not None:
        print(
            f"rank {rank} of {_rank_of(student)}: {compressed.error:.2%} of the change is left "
            f"out, and at most {compressed.largest_error:.2%} of a kernel's (Frobenius norm)",
            file=sys.stderr,
        )
    write_adapter(path, config, student, change, card, new=options.out is not None)
    return path


def _check_scale(options: MergeOptions, config: RunConfig) -> None:
    """Refuse a part of a change that is not in adapters alone."""
    if config.adapter.modules_to_save is not None and options.scale != 1:
        raise BadInput(
            f"{options.run} trained {listed(config.adapter.modules_to_save)} whole, of which "
            "--scale keeps no part; accepted: without --scale"
        )


def _check_rank(rank: int, whole: int) -> None:
    if rank > whole:
        raise BadInput(f"--rank is {rank}, and the adapter has {whole}; accepted: at most {whole}")


def _rank_of(student: Student) -> int:
    """The rank of a run's adapter on the original base: of the delta form twice the trained one."""
    return student.setup.spec.rank * (1 if student.frozen.initial is None else 2)


def merge_run(options: MergeOptions) -> pathlib.Path:
    """Write the whole model of a finished or stopped run, from one of its checkpoints.

    Args:
      options: the run, its checkpoint, and what to write where.

    Returns:
      The folder of the model.

    Raises:
      BadInput: the folder holds no run, or the run has no such checkpoint.
    """
    folder = RunFolder(options.run)
    config = folder.read_config()
    if config.method == "full" and options.scale != 1:
        raise BadInput(
            f"{options.run} trained every weight (method full), of which --scale keeps no part; "
            "accepted: without --scale"
        )
    _check_scale(options, config)
    path = _target(options.out, folder.merged)
    student, state, step = reopen(folder, config, options.checkpoint)
    say_step(folder, step)
    new = options.out is not None
    write_merged(path, config, student, state, options.scale, new=new)
    return path


def _card_of_step(
    folder: RunFolder,
    config: RunConfig,
    student: Student,
    step: int,
    scale: float,
    rank: int | None,
    compressed: adapters.Compressed | None,
) -> str:
    """The model card of one of the run's checkpoints, by the records of the run."""
    evaluations = {record.step: record for record in _history(folder).held_out}
    # Another scale or rank is another model, which was not evaluated.
    is_whole = scale == 1 and compressed is None
    after = evaluations.get(step) if is_whole else None
    error = 0.0 if compressed is None else compressed.error
    results = CardResults.of_evaluations(step, evaluations.get(0), after, scale, error)
    card = _card(config, student, results, rank)
    return with_audit(card, _audit_of_step(folder, step) if is_whole else "")


def _audit_of_step(folder: RunFolder, step: int) -> str:
    """The audit in the card of the run's adapter, if it is of the exported weights."""
    card = read_card(folder.adapter / CARD_FILE, step)
    return "" if card is None else audit_of(card)


def _history(folder: RunFolder) -> History:
    return History.of(read_records(folder.metrics))


def _card(
    config: RunConfig, student: Student, results: CardResults, rank: int | None = None
) -> str:
    return model_card(
        config,
        results,
        student.setup.spec.rank,
        rank or _rank_of(student),
        label_count(config),
        missing_pad_id(config, student),
    )


def _target(out: str | None, default: pathlib.Path) -> pathlib.Path:
    """The folder to write to; --out must be new or empty, the run's own hold nothing of others."""
    if out is None:
        check_own(default)
        return default
    path = pathlib.Path(out).expanduser()
    check_new_folder(path)
    return path


def check_own(path: pathlib.Path) -> None:
    """Check that a folder of a run, which is replaced as a whole, holds only what a run writes.

    Args:
      path: adapter/ or merged/ of a run.

    Raises:
      BadInput: it is a file, or holds something else.
    """
    accepted = "accepted: --out with another folder, or move that away"
    if not path.is_dir():
        if os.path.lexists(path):
            raise BadInput(f"{path} is no folder, and would be replaced; {accepted}")
        return
    foreign = foreign_entries(path)
    if foreign:
        raise BadInput(
            f"{path} holds {listed(foreign)}, which the run did not write, and would be replaced; "
            f"{accepted}"
        )


def foreign_entries(path: pathlib.Path) -> list[str]:
    """List what is in a folder of a run beside what a run writes there.

    Args:
      path: adapter/ or merged/ of a run, or a folder of export or merge.

    Returns:
      The names.
    """
    return [
        entry.name
        for entry in sorted(path.iterdir())
        if not (_is_of_adapter(entry) or models.is_model_file(entry))
    ]


def _is_of_adapter(path: pathlib.Path) -> bool:
    """True for a file of adapter/ that a run has written; of cards it names this package."""
    if path.name == CARD_FILE and path.is_file():
        return PACKAGE in path.read_bytes()
    return path.name == "adapter_config.json" and path.is_file()
