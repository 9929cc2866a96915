"""An evaluation: tasks asked of a run's model and its base, and one table of the results."""

import dataclasses
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from balora_jax import models
from balora_jax.config.check import check_unused
from balora_jax.config.evaluate import EvaluateOptions
from balora_jax.config.paths import check_output
from balora_jax.data.chat import check_chat_template
from balora_jax.errors import BadInput, shown
from balora_jax.evaluation.bias.tasks import BIAS_TASKS, bias_result, item_lines, read_items
from balora_jax.evaluation.language_model import LanguageModel
from balora_jax.evaluation.mt_bench import answer_questions, read_questions
from balora_jax.evaluation.remembering import RememberingModel
from balora_jax.evaluation.results import TaskResult
from balora_jax.evaluation.sandbox.levels import isolation
from balora_jax.reporting.console import plain_console
from balora_jax.runs.asked_tasks import load_harness_tasks
from balora_jax.runs.classifiers import is_classifier
from balora_jax.runs.evaluate.classifier import evaluate_classifier, evaluate_encoder
from balora_jax.runs.evaluate.progress import Bar, answers_of
from balora_jax.runs.evaluate.report import RESULTS, Evaluation, check_folder, report
from balora_jax.runs.language_models import Subject, of_model, of_run
from balora_jax.runs.meeting import writing_together
from balora_jax.training.processes import is_first, together
from balora_jax.training.run_folder import RunFolder

TEMPLATES = "templates"
MT_BENCH = "mt_bench"
QUESTIONS = "question.jsonl"
# The files of an evaluation that was killed, or to which tasks are added.
GONE_ON_WITH = ("answers-*.jsonl", f"{MT_BENCH}-*.jsonl", RESULTS)


@dataclasses.dataclass(frozen=True)
class Work:
    """Everything that an evaluation asks, read before any model is loaded.

    Attributes:
      bias: items and their source of each measure of bias.
      questions: of MT-Bench; None if it is not asked.
      harness: lm-eval's tasks; None if there are none.
    """

    bias: Mapping[str, tuple[Any, str]]
    questions: Sequence[Any] | None
    harness: Any


def evaluate(options: EvaluateOptions, console: Console | None = None) -> pathlib.Path:
    """Evaluate a model on tasks, and write results.json, samples and the answers.

    Args:
      options: the model, the tasks and the settings.
      console: where to print; standard output by default.

    Returns:
      The path of results.json.

    Raises:
      BadInput: a task is unknown or its data is not here, or the model cannot be used.
    """
    console = console or plain_console()
    folder = _folder(options)
    with together(f"process 0 cannot write to {folder}"):
        if is_first():
            check_folder(folder)
    with writing_together(folder, GONE_ON_WITH) as own:
        return report(_evaluate(options, own, console), own, console)


def _evaluate(options: EvaluateOptions, folder: pathlib.Path, console: Console) -> Evaluation:
    """Evaluate a language model, a classifier or an encoder."""
    if options.run is not None and is_classifier(RunFolder(options.run).read_config()):
        return evaluate_classifier(options)
    if options.model is not None and options.names == ("seat",) and _is_encoder(options.model):
        return evaluate_encoder(options)
    if options.groups is not None:
        raise BadInput(
            f"--groups is {shown(options.groups)}; accepted: for the run of a classifier"
        )
    return _evaluate_language_model(options, folder, console)


def _evaluate_language_model(
    options: EvaluateOptions, folder: pathlib.Path, console: Console
) -> Evaluation:
    """Ask a language model, and its base as well if asked, everything that the options name."""
    work = _prepare(options)
    _check_used(options, work)
    for task, source in ({} if work.harness is None else work.harness.local).items():
        console.print(f"{task} reads {source}", highlight=False, soft_wrap=True)
    if work.harness is not None and work.harness.of_programs():
        console.print(isolation(), highlight=False, soft_wrap=True)
    subjects = _subjects(options)
    language_model = subjects[0].language_model
    if options.chat:
        _check_chat(language_model.tokenizer)
    if work.harness is not None:
        work.harness.check_room(language_model.max_length)
    files: dict[str, str] = {}
    bias: dict[str, dict[str, Any]] = {task: {} for task in work.bias}
    asked = {}
    for subject in subjects:
        name = subject.language_model.name
        with answers_of(subject, folder, console) as (responses, bar):
            remembering = RememberingModel(subject.language_model, responses, bar.advance)
            for task, (items, _) in work.bias.items():
                bar.describe(f"{name}: {task}")
                found = BIAS_TASKS[task].measure(remembering, items)
                bias[task][name] = found
                files[f"samples-{name}-{task}.jsonl"] = item_lines(BIAS_TASKS[task], found)
            if work.questions is not None:
                bar.describe(f"{name}: {MT_BENCH}")
                path = _answer_questions(subject, work.questions, folder, options, bar)
                console.print(f"answers for a judge: {path}", highlight=False, soft_wrap=True)
            if work.harness is not None:
                bar.describe(f"{name}: {', '.join(work.harness.names)}")
                asked[name] = _ask(subject, work.harness, responses, bar, options)
    results = [
        bias_result(task, BIAS_TASKS[task], bias[task], len(items), source)
        for task, (items, source) in work.bias.items()
    ]
    if asked:
        results += _harness_results(asked, work.harness)
        files |= _harness_files(asked, work.harness)
    fingerprints = {subject.language_model.name: subject.fingerprint for subject in subjects}
    return Evaluation(fingerprints, results, files)


def _prepare(options: EvaluateOptions) -> Work:
    """Read tasks and data; nothing is written, and no model is loaded."""
    data_dir = None if options.data_dir is None else pathlib.Path(options.data_dir).expanduser()
    names = list(options.names)
    chosen = [name for name in names if name in BIAS_TASKS and name != TEMPLATES]
    if options.templates is not None:
        chosen.append(TEMPLATES)
    elif TEMPLATES in names:
        raise BadInput("--tasks has templates; accepted: with --templates FILE")
    bias = {
        name: read_items(name, data_dir, options.templates, options.seat, options.limit)
        for name in chosen
    }
    questions = None
    if MT_BENCH in names:
        questions = _questions(data_dir, options.limit)
    others = [name for name in names if name not in BIAS_TASKS and name != MT_BENCH]
    harness = _load_harness(others, data_dir, options) if others else None
    return Work(bias, questions, harness)


def _check_used(options: EvaluateOptions, work: Work) -> None:
    """Check that options of benchmarks are not given to measures of bias alone."""
    # What asks benchmarks, reads files, and takes the first items.
    asks = work.harness is not None or work.questions is not None
    reads = asks or bool({"stereoset", "winobias"} & set(work.bias))
    unused = [] if asks else ["seed", "allow_code_execution"]
    unused += [] if reads else ["data_dir", "limit"]
    check_unused(options, unused, ", ".join(work.bias))
    if work.harness is None and options.fewshot is not None:
        raise BadInput(
            f"--fewshot is {options.fewshot}, and no task puts examples into prompts; "
            "accepted: with a task of lm-eval"
        )
    if work.harness is None and work.questions is None and options.chat:
        raise BadInput(
            "--chat is given, and the measures of bias score sentences as they are; "
            "accepted: with a task of lm-eval or mt_bench"
        )


def _questions(data_dir: pathlib.Path | None, limit: int | None) -> Sequence[Any]:
    path = None if data_dir is None else data_dir / MT_BENCH / QUESTIONS
    if path is None or not path.is_file():
        raise BadInput(
            f"{MT_BENCH} reads FastChat's {QUESTIONS}; "
            f"accepted: --data-dir with a folder {MT_BENCH} that holds it"
        )
    return read_questions(path)[:limit]


def _load_harness(
    names: Sequence[str], data_dir: pathlib.Path | None, options: EvaluateOptions
) -> Any:
    tasks = load_harness_tasks(names, data_dir, options.fewshot)
    programs = tasks.of_programs()
    if programs and not options.allow_code_execution:
        raise BadInput(
            f"{' and '.join(programs)} would run the programs that the model writes; "
            "accepted: with --allow-code-execution, which runs them in a sandbox"
        )
    in_template = [name for name in tasks.loaded["tasks"] if name.startswith("alpaca_")]
    if options.chat and in_template:
        raise BadInput(
            f"--chat would put {in_template[0]}'s prompts into a second template; "
            "accepted: tasks without a template of their own, or no --chat"
        )
    return tasks


def _folder(options: EvaluateOptions) -> pathlib.Path:
    default = "" if options.run is None else str(RunFolder(options.run).path / "evaluation")
    return check_output("--out", default if options.out is None else options.out)


def _subjects(options: EvaluateOptions) -> list[Subject]:
    if options.model is not None:
        return of_model(options.model, batch_tokens=options.batch_tokens)
    return of_run(
        options.run,
        options.checkpoint,
        baseline=options.baseline,
        batch_tokens=options.batch_tokens,
    )


def _check_chat(tokenizer: Any) -> None:
    if not getattr(tokenizer, "chat_template", None):
        raise BadInput(
            "--chat renders prompts by the tokenizer's chat template, and it has none; "
            "accepted: a model with a chat template, or no --chat"
        )
    check_chat_template(tokenizer)


def _answer_questions(
    subject: Subject,
    questions: Sequence[Any],
    folder: pathlib.Path,
    options: EvaluateOptions,
    bar: Bar,
) -> pathlib.Path:
    """Write the answers to MT-Bench, for a judge elsewhere; return their path."""
    model = subject.language_model
    template = "chat" if options.chat else "alpaca"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{MT_BENCH}-{model.name}.jsonl"
    bar.extend(len(questions))
    cut = []
    answer_questions(
        model,
        template,
        questions,
        path,
        model_id=f"{model.name}-{subject.fingerprint[:12]}-{template}-{options.seed}",
        max_new_tokens=min(1024, model.max_length // 2),
        seed=options.seed,
        on_done=bar.advance,
        on_cut=cut.append,
    )
    _note_cut(model, sum(cut))
    return path


def _ask(
    subject: Subject, tasks: Any, responses: Any, bar: Bar, options: EvaluateOptions
) -> dict[str, Any]:
    """Ask one model lm-eval's tasks, and run the programs that it writes."""
    from balora_jax.evaluation.harness.model import HarnessModel
    from balora_jax.evaluation.harness.programs import add_pass_rate
    from balora_jax.evaluation.harness.tasks import run_tasks

    model = HarnessModel(
        subject.language_model, responses, begin=bar.extend, show=bar.advance, seed=options.seed
    )
    found = run_tasks(tasks, model, limit=options.limit, fewshot=options.fewshot, chat=options.chat)
    for task in tasks.of_programs():
        bar.describe(f"{subject.language_model.name}: programs")
        bar.extend(len(found["samples"][task]))
        add_pass_rate(found, task, lambda number, outcome: bar.advance(1))
    _note_cut(subject.language_model, model.cut)
    return found


def _note_cut(model: LanguageModel, count: int) -> None:
    if count:
        print(
            f"note: {count:,} of the texts for {model.name} are longer than the "
            f"{model.max_length:,} tokens that it reads: their beginnings were cut; fewer examples "
            "(--fewshot) are shorter",
            file=sys.stderr,
        )


def _harness_results(asked: Mapping[str, Mapping[str, Any]], tasks: Any) -> list[TaskResult]:
    """lm-eval's metrics of several models side by side."""
    from balora_jax.evaluation.harness.results import collect

    return collect(asked, tasks.sources)


def _harness_files(asked: Mapping[str, Mapping[str, Any]], tasks: Any) -> dict[str, str]:
    """lm-eval's samples, and the programs among them for EvalPlus."""
    from balora_jax.evaluation.harness.results import sample_lines
    from balora_jax.evaluation.tasks.evalplus import evalplus_lines

    programs = tasks.of_programs()
    files = {}
    for model, found in asked.items():
        for task, samples in found["samples"].items():
            files[f"samples-{model}-{task}.jsonl"] = "".join(sample_lines(samples))
            if task in programs:
                files[f"evalplus-{model}-{task}.jsonl"] = evalplus_lines(samples)
    return files


def _is_encoder(source: str) -> bool:
    return models.CAUSAL_LM not in models.tasks_of(source)
