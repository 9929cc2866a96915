"""Predictions of a run for the rows of a file: classes, scores or text."""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from balora_jax import data, models
from balora_jax.config import RunConfig
from balora_jax.config.check import check_unused
from balora_jax.config.predict import PredictOptions
from balora_jax.data import Examples, Rows
from balora_jax.data.written_rows import as_csv, as_jsonl, flat_row
from balora_jax.errors import BadInput, reason_of
from balora_jax.evaluation.answers import AnswerEvaluator
from balora_jax.evaluation.classifier import ClassifierEvaluator
from balora_jax.reporting.console import plain_console
from balora_jax.runs import language_models
from balora_jax.runs.reopening import reopen, say_step
from balora_jax.runs.results_files import write_new
from balora_jax.training.processes import are_joined, is_first, require_same, together
from balora_jax.training.run_folder import RunFolder

PREDICTION = "prediction"
PROBABILITIES = "probabilities"
WRITERS = {".jsonl": as_jsonl, ".csv": as_csv}
# The options that a model's task has no use for.
DRAWS = ("temperature", "top_p", "stop", "seed")
UNUSED = {
    "causal-lm": ("batch_size",),
    "sequence-classification": (*DRAWS, "max_new_tokens"),
    "seq2seq-lm": (*DRAWS, "max_new_tokens"),
}
# What is added to a row.
Answer = dict[str, Any]


def predict(options: PredictOptions, console: Console | None = None) -> pathlib.Path:
    """Answer every row of a file with a run's model, and write the rows with the answers.

    Args:
      options: the run, the rows and the file to write.
      console: where notes and progress are shown; standard error by default.

    Returns:
      The path of the file.

    Raises:
      BadInput: the folder holds no run, or a row does not fit its task.
    """
    console = console or plain_console(stderr=True)
    folder = RunFolder(options.run)
    config = folder.read_config()
    used = f"the run of {config.model.task} {folder.address}"
    check_unused(options, UNUSED[config.model.task], used)
    if pathlib.Path(options.data).expanduser().is_file():
        check_unused(options, ("split",), f"the file {options.data}")
    with together(f"another process cannot use {options.data}"):
        rows = _rows(config, options)
    if are_joined():
        require_same({f"rows of {options.data}": list(rows)})
    answers = TASKS[config.model.task](folder, config, rows, options, console)
    written = [dict(row) | answer for row, answer in zip(rows, answers, strict=True)]
    path = pathlib.Path(options.out).expanduser()
    if is_first():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_new("--out", path, WRITERS[path.suffix](written))
    return path


def _rows(config: RunConfig, options: PredictOptions) -> Rows:
    """Read the rows to answer, and check that they can be written with their answers."""
    rows = data.load_rows(
        options.data, subset=config.data.subset, split=options.split, limit=options.limit
    )
    taken = [name for name in (PREDICTION, PROBABILITIES) if name in rows.columns]
    if taken:
        raise BadInput(
            f"{rows.source} has a field {taken[0]}, which is added to each row; accepted: rows "
            "without it"
        )
    _check_writable(rows, config, options)
    return rows


def _check_writable(rows: Rows, config: RunConfig, options: PredictOptions) -> None:
    """Check that the rows can be written, before the model is asked."""
    names = ()
    if config.model.task == models.CLASSIFICATION:
        names = data.text_task(config.data).labels
    answer = {PREDICTION: "", PROBABILITIES: dict.fromkeys(names, 0.0)}
    is_csv = options.out.endswith(".csv")
    for index, row in enumerate(rows):
        whole = dict(row) | answer
        try:
            text = as_jsonl([flat_row(whole) if is_csv else whole])
            text.encode("utf-8")
        except (ValueError, TypeError, RecursionError) as error:
            raise BadInput(
                f"{rows.where(index)} cannot be written to --out ({reason_of(error)}); accepted: "
                "fields of whole characters, with names of their own, not nested too deep"
            ) from error


def _write_text(
    folder: RunFolder, config: RunConfig, rows: Rows, options: PredictOptions, console: Console
) -> Sequence[Answer]:
    """The answers of a language model to the prompts of its template."""
    tokenizer = data.load_tokenizer(config.model.tokenizer_source, config.model.revision)
    template = data.make_template(config.data.template, tokenizer)
    prompts = data.tokenize_prompts(rows, config.data, template, tokenizer)
    [subject] = language_models.of_run(
        options.run, options.checkpoint, baseline=False, batch_tokens=1
    )
    model = subject.language_model
    # An answer has whatever room the longest prompt of its batch leaves.
    longest = max(map(len, prompts), default=0)
    count = min(options.max_new_tokens, model.max_length - min(longest, model.max_length - 1))
    continuations = model.token_continuations(
        prompts,
        max_new_tokens=count,
        end_ids=template.ending[:1],
        stop=tuple(options.stop or ()),
        temperature=options.temperature,
        top_p=options.top_p,
        seed=options.seed,
    )
    shown = track(
        continuations,
        "answers",
        total=len(prompts),
        console=console,
        disable=not console.is_terminal,
    )
    texts = dict(shown)
    return [{PREDICTION: texts[index]} for index in range(len(prompts))]


def _classify(
    folder: RunFolder, config: RunConfig, rows: Rows, options: PredictOptions, console: Console
) -> Sequence[Answer]:
    """The classes or scores of a classifier; classes with their probabilities."""
    task = data.text_task(config.data)
    texts = data.encode(
        rows,
        task,
        data.load_tokenizer(config.model.tokenizer_source, config.model.revision),
        max_length=config.data.max_length,
        labeled=False,
    )
    evaluator = ClassifierEvaluator(
        task, {}, batch_size=options.batch_size, lengths=_lengths(texts, config)
    )
    student, state, step = reopen(folder, config, options.checkpoint)
    say_step(folder, step)
    outputs = evaluator.outputs(student, state, texts)
    predictions = evaluator.predictions(outputs)
    if task.scores is not None:
        return [{PREDICTION: float(np.clip(value, *task.scores))} for value in predictions]
    exponentials = np.exp(outputs - outputs.max(axis=1, keepdims=True))
    shares = exponentials / exponentials.sum(axis=1, keepdims=True)
    return [
        {
            PREDICTION: task.labels[int(prediction)],
            PROBABILITIES: dict(zip(task.labels, map(float, share), strict=True)),
        }
        for prediction, share in zip(predictions, shares, strict=True)
    ]


def _answer(
    folder: RunFolder, config: RunConfig, rows: Rows, options: PredictOptions, console: Console
) -> Sequence[Answer]:
    """The labels or scores that a text-to-text model writes; None where it writes none."""
    task = data.text_task(config.data)
    tokenizer = data.load_tokenizer(config.model.tokenizer_source, config.model.revision)
    texts = data.encode_with_answers(
        rows, task, tokenizer, max_length=config.data.max_length, labeled=False
    )
    evaluator = AnswerEvaluator(
        task,
        {},
        tokenizer,
        max_tokens=_longest_answer(task, tokenizer, config),
        batch_size=options.batch_size,
        lengths=_lengths(texts, config),
    )
    student, state, step = reopen(folder, config, options.checkpoint)
    say_step(folder, step)
    found = evaluator.outputs(student, state, texts)
    if task.scores is not None:
        return [{PREDICTION: float(score)} for score in found]
    return [{PREDICTION: None if label < 0 else task.labels[int(label)]} for label in found]


def _longest_answer(task: data.TextTask, tokenizer: Any, config: RunConfig) -> int:
    """The tokens of the longest label; scores may have as many as the run allows."""
    if task.scores is not None:
        return config.data.max_length
    return data.Answers(task, tokenizer).encode(np.arange(len(task.labels))).shape[1]


TASKS: Mapping[str, Callable[..., Sequence[Answer]]] = {
    "causal-lm": _write_text,
    "sequence-classification": _classify,
    "seq2seq-lm": _answer,
}


def _lengths(texts: Examples, config: RunConfig) -> tuple[int, ...]:
    return data.bucket_lengths(int(texts.lengths.max()), config.data.max_length)
