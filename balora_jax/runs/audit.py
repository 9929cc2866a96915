"""An audit: what fine-tuning changed in runs of one base model, on one page."""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console

from balora_jax import data
from balora_jax.config import RunConfig
from balora_jax.config.audit import AuditOptions
from balora_jax.errors import BadInput
from balora_jax.evaluation.bias.counterfactuals import measure_gaps
from balora_jax.evaluation.bias.templates import read_templates
from balora_jax.evaluation.inheritance.collapse import EffectiveRanks, measure_ranks
from balora_jax.evaluation.inheritance.drift import Drift, measure_drift
from balora_jax.evaluation.inheritance.noise import NoiseFit, Pair, measure_noise
from balora_jax.evaluation.inheritance.passages import read_passages
from balora_jax.evaluation.inheritance.rewind import (
    RewindCurve,
    RewindPoint,
    best_trade_off,
    rewind,
)
from balora_jax.evaluation.language_model import LanguageModel
from balora_jax.evaluation.statistics import Interval
from balora_jax.evaluation.tiny_world.evaluator import tiny_world_measures, tiny_world_passages
from balora_jax.evaluation.tiny_world.probes import Measure
from balora_jax.runs.audit_page import audit_page
from balora_jax.runs.language_models import of_run
from balora_jax.training.replacing import write_whole
from balora_jax.training.run_folder import RunFolder

PAGE = "audit.html"
FINDINGS = "audit.json"
# The field of a training row with the right answer, where the given one may be wrong.
TRUTH = "truth"
# The measures of the rewind curve.
LOSS = "held-out loss"
EXACT = "answers right"
DRIFT = "drift (KL)"


@dataclasses.dataclass(frozen=True)
class Findings:
    """The findings on one run, beside its base.

    Attributes:
      name: the run's name on the page.
      method: ba-lora, pissa, lora or full.
      step: the update of the checkpoint.
      drift: on general text.
      ranks: the effective ranks on that text.
      base_ranks: those of the base.
      noise: the fit to wrong answers of the training set.
      suspects: the texts of its suspects, as the model reads them.
      curve: the measures at parts of the learned change; None for method full.
      best: the point of the curve that keeps most of the gain with the least drift; None likewise.
      gaps: the intervals of the templates by name; empty without templates.
      base_gaps: those of the base.
      world: the tiny world's measures by name; empty for other data.
      base_world: those of the base.
    """

    name: str
    method: str
    step: int
    drift: Drift
    ranks: EffectiveRanks
    base_ranks: EffectiveRanks
    noise: NoiseFit
    suspects: tuple[str, ...]
    curve: RewindCurve | None
    best: RewindPoint | None
    gaps: dict[str, Interval]
    base_gaps: dict[str, Interval]
    world: dict[str, Measure]
    base_world: dict[str, Measure]

    def to_json(self) -> dict[str, Any]:
        """The findings as an object."""
        return dataclasses.asdict(self) | {"drift": self.drift.to_json()}


def audit(options: AuditOptions, console: Console | None = None) -> pathlib.Path:
    """Compare runs with their base, and write audit.html and audit.json.

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
            findings.append(_find(name, config, step, *models, passages, templates, options.limit))
    folder = _folder(options)
    folder.mkdir(parents=True, exist_ok=True)
    content = {"base": base, "runs": [finding.to_json() for finding in findings]}
    write_whole(folder / FINDINGS, json.dumps(content, indent=2, default=float) + "\n")
    first = next(iter(configs.values()))
    write_whole(folder / PAGE, audit_page(first.model.source, findings))
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
        return read_passages(options.text, options.limit)
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


def _find(
    name: str,
    config: RunConfig,
    step: int,
    tuned: LanguageModel,
    base: LanguageModel,
    passages: Sequence[str],
    templates: Sequence[Any],
    limit: int,
) -> Findings:
    """Measure one run beside its base."""
    curve = None
    best = None
    if tuned.lora is not None:
        curve = _rewind(config, tuned, base, passages, limit)
        if LOSS in curve.points[0].measures:
            best = best_trade_off(curve, loss=_task_loss(curve), drift=DRIFT)
    examples, wrong = _training_pairs(config, tuned, limit)
    noise = measure_noise(base, tuned, examples, wrong)
    return Findings(
        name=name,
        method=config.method,
        step=step,
        drift=measure_drift(base, tuned, passages),
        ranks=measure_ranks(tuned, passages),
        base_ranks=measure_ranks(base, passages),
        noise=noise,
        suspects=tuple(_text(tuned, examples[suspect.example]) for suspect in noise.suspects),
        curve=curve,
        best=best,
        gaps=_gaps(tuned, templates),
        base_gaps=_gaps(base, templates),
        world=tiny_world_measures(config.data, tuned),
        base_world=tiny_world_measures(config.data, base),
    )


def _task_loss(curve: RewindCurve) -> Callable[[Mapping[str, float]], float]:
    """The share of wrong answers, or the held-out loss where no answer is ever right."""
    if any(point.measures[EXACT] > 0 for point in curve.points):
        return lambda measures: 1 - measures[EXACT]
    return lambda measures: measures[LOSS]


def _gaps(model: LanguageModel, templates: Sequence[Any]) -> dict[str, Interval]:
    if not templates:
        return {}
    slots = measure_gaps(model, templates).values()
    return {name: value for slot in slots for name, value in slot.measures.items()}


def _rewind(
    config: RunConfig,
    tuned: LanguageModel,
    base: LanguageModel,
    passages: Sequence[str],
    limit: int,
) -> RewindCurve:
    """Measure held-out answers and drift at parts of the learned change."""
    pairs = list(_held_out_pairs(config, tuned, limit))

    def measure(lora: Any) -> dict[str, float]:
        part = tuned.with_lora(lora)
        measures = {DRIFT: measure_drift(base, part, passages).forward.value}
        if pairs:
            scores = [score for _, score in part.scores(pairs)]
            tokens = sum(score.tokens for score in scores)
            measures[LOSS] = -sum(score.log_likelihood for score in scores) / tokens
            measures[EXACT] = float(np.mean([score.greedy for score in scores]))
        return measures

    return rewind(measure, tuned.lora)


def _held_out_pairs(
    config: RunConfig, model: LanguageModel, limit: int
) -> Iterator[tuple[list[int], list[int]]]:
    """The tokens of held-out prompts and answers; none without a held-out set."""
    if config.data.eval is None:
        return
    examples = data.prepare(config.data, model.tokenizer, split="eval")
    for index in range(min(limit, len(examples))):
        yield _pair(examples, index)


def _training_pairs(
    config: RunConfig, model: LanguageModel, limit: int
) -> tuple[list[Pair], list[Pair]]:
    """The tokens of training prompts and answers, and those whose answers are known to be wrong.

    An answer is known to be wrong if its row has a field `truth` with another text.
    """
    examples = data.prepare(config.data, model.tokenizer, split="train")
    pairs = [_pair(examples, index) for index in range(min(limit, len(examples)))]
    rows = data.load_rows(
        config.data.train, subset=config.data.subset, split=config.data.train_split
    )
    dropped = examples.dropped_empty + examples.dropped_long
    response = (config.data.fields or {}).get("response", "response")
    if dropped or TRUTH not in rows.columns or response not in rows.columns:
        return pairs, []
    wrong = [
        _pair(examples, index)
        for index, row in enumerate(rows)
        if index < len(examples) and row.get(TRUTH) not in (None, row[response])
    ]
    return pairs, wrong[:limit]


def _pair(examples: data.Examples, index: int) -> Pair:
    """The tokens of a prompt and its answer; no position predicts the first token."""
    ids = examples[index].tolist()
    prompt = max(1, int(examples.prompt_lengths[index]))
    return ids[:prompt], ids[prompt:]


def _text(model: LanguageModel, pair: Pair) -> str:
    prompt, answer = (model.tokenizer.decode(part, skip_special_tokens=True) for part in pair)
    return f"{prompt.strip()} ⟶ {answer.strip()}"
