"""The tasks of an evaluation: found by name, with their data, and run on a model."""

import dataclasses
import difflib
import logging
import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import lm_eval
import yaml
from lm_eval.tasks import TaskManager

from balora_jax.errors import BadInput, reason_of
from balora_jax.evaluation.harness.local_data import local_options
from balora_jax.evaluation.harness.model import HarnessModel

OURS = pathlib.Path(__file__).parents[1] / "tasks"
# Seeds of lm-eval's command line, for the same few-shot examples and standard errors.
SEEDS = {"random_seed": 0, "numpy_random_seed": 1234, "torch_random_seed": None}
FEWSHOT_SEED = 1234


@dataclasses.dataclass(frozen=True)
class Tasks:
    """Tasks with their data, ready to run.

    Attributes:
      names: as they were asked for.
      manager: lm-eval's, which knows all tasks.
      loaded: lm-eval's tasks and groups.
      sources: the data set or the local files of each task.
    """

    names: tuple[str, ...]
    manager: Any
    loaded: dict[str, Any]
    sources: dict[str, str]


def load_tasks(names: Sequence[str], data_dir: pathlib.Path | None) -> Tasks:
    """Find tasks by name, and load their data.

    Args:
      names: of tasks, groups or tags of lm-eval or of this package.
      data_dir: a folder with local files; None for the hub.

    Returns:
      The tasks.

    Raises:
      BadInput: a task is unknown, its data is not here, or it cannot run here.
    """
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    manager = TaskManager(include_path=str(OURS))
    for name in names:
        _check_known(name, manager.all_tasks)
    sources: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        if data_dir is not None:
            sources = _use_local_files(manager, names, data_dir, pathlib.Path(folder))
        loaded = {"tasks": {}, "groups": {}, "group_map": {}}
        for name in names:
            for kind, items in _load(manager, name, sources).items():
                loaded[kind] |= items
    for name, task in loaded["tasks"].items():
        _check_runs_here(name, task)
        sources.setdefault(name, str(task.config.dataset_path))
        _check_fields(name, task, sources[name])
    return Tasks(tuple(names), manager, loaded, sources)


def run_tasks(
    tasks: Tasks, model: HarnessModel, *, limit: int | None, fewshot: int | None, chat: bool
) -> dict[str, Any]:
    """Ask a model everything that tasks ask, and score the answers.

    Args:
      tasks: from `load_tasks`.
      model: the model.
      limit: the examples of each task; None for all.
      fewshot: the examples in a prompt; None for as many as the task has.
      chat: whether prompts are rendered by the tokenizer's chat template.

    Returns:
      lm-eval's results, with `samples`.
    """
    return lm_eval.simple_evaluate(
        model=model,
        tasks=list(tasks.loaded["groups"].values()) + _alone(tasks),
        task_manager=tasks.manager,
        limit=limit,
        num_fewshot=fewshot,
        apply_chat_template=chat,
        log_samples=True,
        fewshot_random_seed=FEWSHOT_SEED,
        **SEEDS,
    )


def _alone(tasks: Tasks) -> list[Any]:
    """The tasks that are in no group."""
    grouped = set()
    for group in tasks.loaded["groups"].values():
        grouped |= {task.task_name for task in group.get_all_tasks()}
    return [task for name, task in tasks.loaded["tasks"].items() if name not in grouped]


def _check_known(name: str, known: Sequence[str]) -> None:
    if name in known:
        return
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f", such as {', '.join(near)}" if near else ""
    raise BadInput(f"--tasks has {name[:100]!r}; accepted: a task of lm-eval or of ours{hint}")


def _use_local_files(
    manager: TaskManager, names: Sequence[str], data_dir: pathlib.Path, folder: pathlib.Path
) -> dict[str, str]:
    """Point tasks to local files, by a Yaml file each that includes the task's own.

    Args:
      manager: its index is changed.
      names: of tasks, groups or tags.
      data_dir: the folder with local files.
      folder: where the Yaml files are written.

    Returns:
      The local files of each task that has them.
    """
    sources = {}
    for name in _members(manager.task_index, names):
        entry = manager.task_index[name]
        if entry.yaml_path is None:
            continue
        config = _config(entry.yaml_path) | {"task": name}
        options = local_options(data_dir, config)
        if options is None:
            continue
        path = folder / f"{len(sources)}.yaml"
        included = {"include": str(entry.yaml_path), "task": name}
        path.write_text(yaml.safe_dump(included | options), encoding="utf-8")
        manager.task_index[name] = dataclasses.replace(entry, yaml_path=path)
        sources[name] = " and ".join(options["dataset_kwargs"]["data_files"].values())
    return sources


def _members(index: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """The tasks themselves behind names of tasks, groups and tags."""
    found: dict[str, None] = {}
    for name in names:
        entry = index.get(name)
        if entry is None:
            continue
        members = sorted(entry.tags)
        if entry.kind.name == "GROUP":
            listed = (entry.cfg or _config(entry.yaml_path)).get("task") or []
            members = [member for member in listed if isinstance(member, str)]
        elif entry.kind.name != "TAG":
            found[name] = None
            continue
        found |= dict.fromkeys(_members(index, members))
    return list(found)


class _Reader(yaml.SafeLoader):
    """A reader of task files in which the names of functions are texts."""


_Reader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))


def _config(path: pathlib.Path) -> dict[str, Any]:
    """The configuration in a task's file and in those that it includes."""
    config = yaml.load(path.read_text(encoding="utf-8"), Loader=_Reader)
    included = config.pop("include", [])
    merged: dict[str, Any] = {}
    for name in [included] if isinstance(included, str) else included:
        merged |= _config(path.parent / name)
    return merged | config


def _load(manager: TaskManager, name: str, sources: Mapping[str, str]) -> dict[str, Any]:
    """Load one task, group or tag with its data."""
    try:
        return manager.load([name])
    except ImportError as error:
        raise BadInput(
            f"task {name} needs a package that is not installed ({reason_of(error)}); "
            f"accepted: pip install {error.name or 'that package'}"
        ) from error
    # Tasks and `datasets` raise errors of any type for data that is missing or damaged.
    except Exception as error:
        files = " and ".join(sources.values())
        place = f" in {files}" if files else ""
        raise BadInput(
            f"the data of task {name} cannot be read{place} ({reason_of(error)}); "
            "accepted: a network, or --data-dir with a folder of the task's name and its splits"
        ) from error


def _check_runs_here(name: str, task: Any) -> None:
    if getattr(task, "UNSAFE_CODE", False):
        raise BadInput(
            f"task {name} runs generated code in this process; "
            "accepted: alpaca_humaneval and alpaca_mbpp, which run it in a sandbox"
        )
    if getattr(task, "MULTIMODAL", False):
        raise BadInput(f"task {name} has images or sounds; accepted: a task of text")


def _check_fields(name: str, task: Any, source: str) -> None:
    """Make the first example of a task, which reads the fields that the task needs."""
    docs = task.eval_docs
    if not len(docs):
        raise BadInput(f"{source} has no rows for task {name}; accepted: at least one")
    try:
        doc = docs[0]
        task.doc_to_text(doc)
        task.doc_to_target(doc)
        if task.OUTPUT_TYPE == "multiple_choice":
            task.doc_to_choice(doc)
    # A task's own functions read the fields.
    except Exception as error:
        raise BadInput(
            f"task {name} cannot use the rows of {source}, whose fields are "
            f"{', '.join(map(str, docs.column_names))} ({reason_of(error)}); "
            "accepted: the fields of the set on the hub"
        ) from error
