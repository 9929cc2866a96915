"""The command `balora audit`: what fine-tuning changed in runs of one base model, on one page."""

import json
import pathlib
from collections.abc import Mapping, Sequence

from rich.console import Console

from balora_jax.config import RunConfig
from balora_jax.config.audit import AuditOptions
from balora_jax.errors import BadInput
from balora_jax.evaluation.bias.templates import read_templates
from balora_jax.evaluation.inheritance.passages import read_passages
from balora_jax.evaluation.tiny_world.evaluator import tiny_world_passages
from balora_jax.runs.audit.card import add_to_card
from balora_jax.runs.audit.language_model import find
from balora_jax.runs.audit.page import audit_page
from balora_jax.runs.language_models import of_run
from balora_jax.training.replacing import write_whole
from balora_jax.training.run_folder import RunFolder

PAGE = "audit.html"
FINDINGS = "audit.json"


def audit(options: AuditOptions, console: Console | None = None) -> pathlib.Path:
    """Compare runs with their base; write audit.html, audit.json and a part of the model cards.

    Args:
      options: the runs and the texts.
      console: where to print; standard output by default.

    Returns:
      The path of the page.

    Raises:
      BadInput: a folder holds no run of a causal language model, the runs have different bases, or
        there is no general text.
    """
    console = console or Console()
    templates = () if options.templates is None else read_templates(options.templates)
    configs = {name: _config(run) for name, run in _names(options.run).items()}
    passages = _passages(options, configs)
    findings = []
    base = None
    for (name, config), run in zip(configs.items(), options.run, strict=True):
        with console.status(f"{name}: reading {len(passages)} passages"):
            subjects = of_run(
                run,
                options.checkpoint,
                baseline=True,
                batch_tokens=options.batch_tokens,
                console=console,
            )
            tuned, untouched = subjects
            if base not in (None, untouched.fingerprint):
                raise BadInput(
                    f"--run {run} is of another base model than {options.run[0]}; "
                    "accepted: runs of one base and tokenizer"
                )
            base = untouched.fingerprint
            step = RunFolder(run).step_of(options.checkpoint)
            models = (tuned.language_model, untouched.language_model)
            findings.append(find(name, config, step, *models, passages, templates, options.limit))
    folder = _folder(options)
    folder.mkdir(parents=True, exist_ok=True)
    content = {"base": base, "runs": [finding.to_json() for finding in findings]}
    write_whole(folder / FINDINGS, json.dumps(content, indent=2, default=float) + "\n")
    first = next(iter(configs.values()))
    write_whole(folder / PAGE, audit_page(first.model.source, findings))
    for run, finding in zip(options.run, findings, strict=True):
        card = add_to_card(RunFolder(run), finding)
        if card is not None:
            console.print(f"added to {card}", highlight=False, soft_wrap=True)
    return folder / PAGE


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


def _folder(options: AuditOptions) -> pathlib.Path:
    if options.out is not None:
        return pathlib.Path(options.out).expanduser()
    return RunFolder(options.run[0]).path / "audit"
