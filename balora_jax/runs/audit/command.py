"""The command `balora audit`: what fine-tuning changed in runs of one base model, on one page."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from balora_jax import data
from balora_jax.config import RunConfig
from balora_jax.config.audit import AuditOptions
from balora_jax.config.data import DataConfig
from balora_jax.config.paths import check_output
from balora_jax.errors import BadInput, shown
from balora_jax.evaluation.bias.templates import read_templates
from balora_jax.evaluation.inheritance.passages import read_passages
from balora_jax.evaluation.results import finite
from balora_jax.evaluation.tiny_world.evaluator import tiny_world_passages
from balora_jax.reporting.console import plain_console
from balora_jax.runs import classifiers, language_models
from balora_jax.runs.audit.card import add_to_card
from balora_jax.runs.audit.classifier import ClassifierFindings, find_classifier
from balora_jax.runs.audit.language_model import Findings, State, find
from balora_jax.runs.audit.page import WRITER, audit_page
from balora_jax.runs.classifiers import is_classifier
from balora_jax.runs.evaluate.classifier import check_single
from balora_jax.runs.fingerprints import base_fingerprint
from balora_jax.runs.results_files import WRITTEN_BY, check_replaceable
from balora_jax.training.processes import is_first, together
from balora_jax.training.replacing import write_whole
from balora_jax.training.run_folder import RunFolder

PAGE = "audit.html"
FINDINGS = "audit.json"
# The options that say which held-out examples are read, and how.
SAME = (
    "eval", "eval_share", "eval_split", "subset", "task", "fields", "labels", "template",
    "max_length", "probes",
)  # fmt: skip


def audit(options: AuditOptions, console: Console | None = None) -> pathlib.Path:
    """Compare runs with their base; write audit.html, audit.json and a part of the model cards.

    Args:
      options: the runs and the texts.
      console: where to print; standard output by default.

    Returns:
      The path of the page.

    Raises:
      BadInput: a folder holds no run of a causal language model or a classifier, the runs have
        different bases, or there is no general text.
    """
    console = console or plain_console()
    default = str(RunFolder(options.run[0]).path / "audit")
    folder = check_output("--out", default if options.out is None else options.out)
    with together(f"process 0 cannot write to {folder}"):
        for name in (FINDINGS, PAGE) if is_first() else ():
            check_replaceable(folder / name, WRITER)
    templates = () if options.templates is None else read_templates(options.templates)
    configs = {name: _config(run) for name, run in _names(options.run).items()}
    fingerprint = _check_one_base(options.run, list(configs.values()))
    classify = is_classifier(next(iter(configs.values())))
    if classify and options.text is not None:
        raise BadInput(
            f"--text is {shown(options.text)}, and --run {options.run[0]} is of a classifier; "
            "accepted: without --text, because its own held-out texts are read"
        )
    if classify and templates:
        for run, config in zip(options.run, configs.values(), strict=True):
            check_single(config, RunFolder(run))
    passages = [] if classify else _passages(options, configs)
    findings: list[Any] = []
    for (name, config), run in zip(configs.items(), options.run, strict=True):
        with console.status(Text(f"{name}: reading")):
            RunFolder(run).step_of(options.checkpoint)
            if classify:
                found = _find_classifier(name, config, run, templates, options)
            else:
                # Of all runs the base is one, and reads the same texts.
                before = findings[0].before if findings else None
                found = _find(name, config, run, passages, templates, options, before)
            findings.append(found)
    if is_first():
        _write(options, configs, findings, fingerprint, folder, console)
    return folder / PAGE


def _write(
    options: AuditOptions,
    configs: Mapping[str, RunConfig],
    findings: Sequence[Findings] | Sequence[ClassifierFindings],
    fingerprint: str,
    folder: pathlib.Path,
    console: Console,
) -> None:
    """Write the page, the numbers and the parts of the model cards."""
    folder.mkdir(parents=True, exist_ok=True)
    first = next(iter(configs.values()))
    inputs = _inputs(options, first, is_classifier(first))
    content = {
        WRITTEN_BY: WRITER,
        "inputs": inputs,
        "base": first.model.source,
        "fingerprint": fingerprint,
        "runs": [finding.to_json() for finding in findings],
    }
    text = json.dumps(finite(content), indent=2, default=float)
    write_whole(folder / FINDINGS, f"{text}\n")
    write_whole(folder / PAGE, audit_page(first.model.source, inputs, findings))
    for run, finding in zip(options.run, findings, strict=True):
        card = add_to_card(RunFolder(run), finding, inputs)
        if card is not None:
            console.print(f"added to {card}", highlight=False, soft_wrap=True)
        if finding.best is not None and finding.best.scale != 1:
            console.print(
                f"{finding.name} keeps nine tenths of its gain with less drift at a part of its "
                f"change: balora export --run {run} --scale {finding.best.scale:g} --out DIR",
                highlight=False,
                soft_wrap=True,
            )


def _inputs(options: AuditOptions, config: RunConfig, classify: bool) -> str:
    """A sentence on the texts that an audit reads."""
    read = []
    if not classify:
        read.append(f"general text from {options.text or 'the tiny world'}")
    if options.templates is not None:
        read.append(f"templates from {options.templates}")
    held_out = config.data.eval
    if config.data.eval_share is not None:
        names = " and ".join(config.data.source_names)
        read.append(f"{config.data.eval_share:g} of {names}, which was held out")
    if held_out is not None:
        names = [held_out] if isinstance(held_out, str) else held_out
        read.append(f"held-out examples from {' and '.join(names)}")
    return f"Read: {'; '.join(read)}; at most {options.limit:,} of each."


def _find(
    name: str,
    config: RunConfig,
    run: str,
    passages: Sequence[str],
    templates: Sequence[Any],
    options: AuditOptions,
    before: State | None,
) -> Findings:
    """The findings on the run of a language model."""
    subjects = language_models.of_run(
        run,
        options.checkpoint,
        baseline=True,
        batch_tokens=options.batch_tokens,
    )
    models = [subject.language_model for subject in subjects]
    return find(name, config, subjects[0].step, *models, passages, templates, options.limit, before)


def _find_classifier(
    name: str,
    config: RunConfig,
    run: str,
    templates: Sequence[Any],
    options: AuditOptions,
) -> ClassifierFindings:
    """The findings on the run of a classifier."""
    subjects = classifiers.of_run(run, options.checkpoint, baseline=True)
    return find_classifier(name, config, subjects[0].step, *subjects, templates, options.limit)


def _check_one_base(runs: Sequence[str], configs: Sequence[RunConfig]) -> str:
    """Check that all runs have the base and the held-out set of the first; hash its weights."""
    first = None
    for run, config in zip(runs, configs, strict=True):
        tokenizer = data.load_tokenizer(config.model.tokenizer_source, config.model.revision)
        weights = base_fingerprint(config.model.source, config.model.revision)
        base = (config.model.task, weights, data.tokenizer_fingerprint(tokenizer))
        if first not in (None, base):
            raise BadInput(
                f"--run {run} is of another base model than {runs[0]}; "
                "accepted: runs of one base, tokenizer and task"
            )
        first = base
        _check_same_texts(runs[0], configs[0].data, run, config.data)
    return first[1]


def _check_same_texts(first: str, expected: DataConfig, run: str, found: DataConfig) -> None:
    """Check that two runs have the same held-out set, which one table is about."""
    for name in SAME:
        left = getattr(expected, name)
        right = getattr(found, name)
        if left != right:
            raise BadInput(
                f"--run {run} has data.{name} {shown(right)}, and {first} has {shown(left)}; "
                "accepted: runs with one held-out set, or an audit of each"
            )


def _names(runs: Sequence[str]) -> dict[str, str]:
    """Name each run by its folder, or by its path where two folders have the same name."""
    names = [pathlib.Path(run).resolve().name for run in runs]
    if len(set(names)) < len(names):
        names = [str(pathlib.Path(run)) for run in runs]
    return dict(zip(names, runs, strict=True))


def _config(run: str) -> RunConfig:
    return RunFolder(run).read_config()


def _passages(options: AuditOptions, configs: Mapping[str, RunConfig]) -> list[str]:
    """The general text: of --text, or the corpus of the first run's tiny world."""
    if options.text is not None:
        return read_passages("--text", options.text, options.limit)
    config = next(iter(configs.values()))
    if config.data.probes is None:
        raise BadInput(
            "audit reads general text; accepted: --text FILE, a .txt file of paragraphs or .jsonl "
            "with a field text, that no run was trained on"
        )
    return tiny_world_passages(config.data, options.limit)
