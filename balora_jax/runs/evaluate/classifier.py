"""An evaluation of a classifier: its classes, groups, templates and SEAT, beside step 0."""

import difflib
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from balora_jax import data
from balora_jax.config import RunConfig
from balora_jax.config.check import check_unused
from balora_jax.config.evaluate import EvaluateOptions
from balora_jax.data import Examples, Rows
from balora_jax.errors import BadInput, listed, shown
from balora_jax.evaluation.bias.classifier_tasks import CLASSIFIER_TASKS, ClassTemplates, LabeledSet
from balora_jax.evaluation.bias.tasks import bias_result, item_lines, read_sentence_tests
from balora_jax.evaluation.bias.templates import read_templates
from balora_jax.runs import classifiers
from balora_jax.runs.classifiers import Subject
from balora_jax.runs.evaluate.report import Evaluation
from balora_jax.training.run_folder import RunFolder

CLASSES = "classes"
GROUPS = "groups"
SEAT = "seat"
TEMPLATES = "templates"
MOST_GROUPS = 100
# Options of language models alone.
OF_LANGUAGE_MODELS = (
    "data_dir", "fewshot", "chat", "limit", "seed", "batch_tokens", "allow_code_execution"
)  # fmt: skip


def evaluate_classifier(options: EvaluateOptions) -> Evaluation:
    """Measure a run's classifier, and the one that it began as if asked.

    Args:
      options: with `run` of a classifier.

    Returns:
      The results, and what was found for each text.

    Raises:
      BadInput: a task is none of classifiers, or its data is not there.
    """
    run = RunFolder(options.run)
    config = run.read_config()
    names = _names(options, run)
    items: dict[str, tuple[Any, str]] = {}
    if SEAT in names:
        items[SEAT] = read_sentence_tests(options.seat)
    if TEMPLATES in names:
        check_single(config, run)
        asked = ClassTemplates(read_templates(options.templates), _classes(config))
        items[TEMPLATES] = (asked, options.templates)
    sets = {}
    if {CLASSES, GROUPS} & set(names):
        _classes(config)
        sets = _read_sets(config, options.groups)
    subjects = classifiers.of_run(options.run, options.checkpoint, baseline=options.baseline)
    for set_name, (rows, texts) in sets.items():
        labeled = _labeled(config, texts, rows, options.groups, subjects)
        for name in names:
            if name in (CLASSES, GROUPS):
                task = f"{name}/{set_name}" if len(sets) > 1 else name
                items[task] = (labeled, str(rows.source))
    results = []
    files = {}
    for task, (asked, source) in items.items():
        measures = CLASSIFIER_TASKS[task.partition("/")[0]]
        found = {}
        for subject in subjects:
            name = subject.classifier.name
            found[name] = measures.measure(subject.classifier, asked)
            file = f"samples-{name}-{task.replace('/', '-')}.jsonl"
            files[file] = item_lines(measures, found[name])
        results.append(bias_result(task, measures, found, len(asked), source))
    return Evaluation(_fingerprints(subjects), results, files)


def evaluate_encoder(options: EvaluateOptions) -> Evaluation:
    """Measure the hidden states of an encoder without a run.

    Args:
      options: with `model`, and seat as the only task.

    Returns:
      The results, and what was found for each sentence.

    Raises:
      BadInput: the model cannot be used, or the file of tests.
    """
    others = (*OF_LANGUAGE_MODELS, "templates", "groups")
    check_unused(options, others, f"--tasks seat of the encoder {options.model}")
    tests, source = read_sentence_tests(options.seat)
    subjects = classifiers.of_model(options.model)
    [subject] = subjects
    measures = CLASSIFIER_TASKS[SEAT]
    name = subject.classifier.name
    found = {name: measures.measure(subject.classifier, tests)}
    result = bias_result(SEAT, measures, found, len(tests), source)
    files = {f"samples-{name}-{SEAT}.jsonl": item_lines(measures, found[name])}
    return Evaluation(_fingerprints(subjects), [result], files)


def _fingerprints(subjects: Sequence[Subject]) -> dict[str, str]:
    return {subject.classifier.name: subject.fingerprint for subject in subjects}


def _names(options: EvaluateOptions, folder: RunFolder) -> list[str]:
    """The tasks that are asked for, those of options with a file among them."""
    check_unused(options, OF_LANGUAGE_MODELS, f"the classifier's run {folder.address}")
    for name in options.names:
        if name not in CLASSIFIER_TASKS:
            near = difflib.get_close_matches(name, CLASSIFIER_TASKS, n=1)
            hint = f", such as {near[0]}" if near else ""
            raise BadInput(
                f"--tasks has {name[:100]!r}, and {folder.address} is a classifier's run; "
                f"accepted: {listed(CLASSIFIER_TASKS)}{hint}"
            )
    names = list(options.names)
    for name, option in ((TEMPLATES, options.templates), (GROUPS, options.groups)):
        if option is not None and name not in names:
            names.append(name)
        if option is None and name in names:
            raise BadInput(f"--tasks has {name}; accepted: with --{name} too")
    return names


def _read_sets(config: RunConfig, groups: str | None) -> Mapping[str, tuple[Rows, Examples]]:
    """The rows and tokens of the held-out sets."""
    task = data.text_task(config.data)
    rows = data.read_held_out_rows(config.data)
    if not rows:
        raise BadInput(
            "the run has no held-out set (data.eval is null); accepted: --tasks seat or --templates"
        )
    if groups is not None:
        for held_out in rows.values():
            found = len(set(_groups(held_out, groups)))
            if found > MOST_GROUPS:
                raise BadInput(
                    f"{held_out.source} has {found} values of {groups}; accepted: a field of at "
                    f"most {MOST_GROUPS} groups"
                )
    tokenizer = data.load_tokenizer(config.model.tokenizer_source, config.model.revision)
    encode = functools.partial(data.encode, task=task, tokenizer=tokenizer)
    return {
        name: (held_out, encode(held_out, max_length=config.data.max_length))
        for name, held_out in rows.items()
    }


def _classes(config: RunConfig) -> tuple[str, ...]:
    task = data.text_task(config.data)
    if task.scores is not None:
        raise BadInput(
            "the run predicts scores (data.scores), which have no classes; accepted: --tasks seat"
        )
    return task.labels


def _groups(rows: Rows, field: str) -> list[str]:
    """The group of each row, whose values are texts or whole numbers."""
    rows.require((field,))
    kinds: dict[str, type] = {}
    for index, row in enumerate(rows):
        value = row.get(field)
        if not isinstance(value, str | int):
            raise BadInput(
                f"{rows.where(index)}: {field} is {shown(value)}; accepted: text, a whole number, "
                "or true and false"
            )
        if isinstance(value, str):
            rows.require_unicode(index, field, value)
        if kinds.setdefault(str(value), type(value)) is not type(value):
            raise BadInput(
                f"{rows.where(index)}: {field} is {shown(value)}, and of another row it is "
                f"{shown(kinds[str(value)](value))}; accepted: one kind of value"
            )
    return [str(row[field]) for row in rows]


def check_single(config: RunConfig, folder: RunFolder) -> None:
    """Check that a classifier reads single texts, as the sentences of templates are.

    Args:
      config: of its run.
      folder: of its run.

    Raises:
      BadInput: it was trained on pairs of texts.
    """
    fields = data.text_task(config.data).fields
    if len(fields) > 1:
        raise BadInput(
            f"--templates are single sentences, and the classifier of {folder.address} reads pairs "
            f"({listed(fields)}); accepted: a classifier of single texts"
        )


def _labeled(
    config: RunConfig, texts: Examples, rows: Rows, groups: str | None, subjects: list[Subject]
) -> LabeledSet:
    """The set as measures read it; each classifier reads it once."""
    meshes = {subject.classifier.name: subject.mesh for subject in subjects}

    @functools.cache
    def read(classifier: Any) -> np.ndarray:
        return classifier.read(texts, meshes[classifier.name])[1]

    named = () if groups is None else tuple(_groups(rows, groups))
    return LabeledSet(read, texts.labels, _classes(config), named)
