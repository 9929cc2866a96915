"""The tasks of an evaluation: found by name, with their data, and run on a model."""

import contextlib
import dataclasses
import difflib
import functools
import glob
import logging
import pathlib
import tempfile
import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import lm_eval
import yaml
from lm_eval.tasks import TaskManager

from balora_jax.data.sources import cause_of, quiet
from balora_jax.errors import BadInput, listed, reason_of, shown
from balora_jax.evaluation.harness.local_data import local_options
from balora_jax.evaluation.harness.model import MAX_NEW_TOKENS, HarnessModel
from balora_jax.evaluation.tasks.code import EXECUTES_CODE

OURS = pathlib.Path(__file__).parents[1] / "tasks"
# Tasks that are not lm-eval's, for the names in messages.
OTHERS = ("mt_bench", "stereoset", "winobias")
# The folders of lm-eval's code and of ours.
HARNESS = str(pathlib.Path(lm_eval.__file__).parent)
PACKAGE = str(pathlib.Path(__file__).parents[2])
OF_CLASSIFIERS = ("classes", "groups")
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
      local: the local files of the tasks that have some.
    """

    names: tuple[str, ...]
    manager: Any
    loaded: dict[str, Any]
    sources: dict[str, str]
    local: dict[str, str]

    def of_programs(self) -> list[str]:
        """The tasks whose answers are programs, which must run to be scored."""
        tasks = self.loaded["tasks"].items()
        return [name for name, task in tasks if (task.config.metadata or {}).get(EXECUTES_CODE)]

    def check_room(self, positions: int) -> None:
        """Check that a model has room for the answers that the tasks ask for.

        Args:
          positions: of the model.

        Raises:
          BadInput: a task's answers alone are as long as the model reads.
        """
        for name, task in self.loaded["tasks"].items():
            if task.OUTPUT_TYPE != "generate_until":
                continue
            options = task.config.generation_kwargs or {}
            tokens = options.get("max_gen_toks", MAX_NEW_TOKENS)
            if tokens >= positions:
                raise BadInput(
                    f"task {name} asks for answers of up to {tokens} tokens, and the model reads "
                    f"{positions}; accepted: a model with more positions, or other tasks"
                )


def load_tasks(
    names: Sequence[str], data_dir: pathlib.Path | None, fewshot: int | None = None
) -> Tasks:
    """Find tasks by name, and load their data.

    Args:
      names: of tasks, groups or tags of lm-eval or of this package.
      data_dir: a folder with local files; None for the hub.
      fewshot: the examples in a prompt; None for as many as a task has.

    Returns:
      The tasks.

    Raises:
      BadInput: a task is unknown, its data is not here, or it cannot run here.
    """
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    manager = _manager()
    for name in names:
        _check_known(name, manager.all_tasks)
    members = _members(manager.task_index, names)
    for name in members:
        _check_runs_here(name, _config_of(manager, name))
    loaded: dict[str, Any] = {"tasks": {}, "groups": {}, "group_map": {}}
    with _local_files(manager, members, data_dir, fewshot) as sources:
        for name in names:
            for kind, items in _load(manager, name, sources).items():
                loaded[kind] |= items
    local = dict(sources)
    for name, task in loaded["tasks"].items():
        sources.setdefault(name, str(task.config.dataset_path))
        _check_rows(name, task, sources[name], every=name in local)
        _check_examples(name, task, fewshot)
    return Tasks(tuple(names), manager, loaded, sources, local)


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

    Raises:
      BadInput: a task's own functions fail on rows of local files.
    """
    try:
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
    except Exception as error:
        if not tasks.local or _is_ours(error):
            raise
        files = " and ".join(dict.fromkeys(tasks.local.values()))
        raise BadInput(
            f"a task cannot score the rows of {files} ({reason_of(error)}); accepted: the fields "
            "and values of the set on the hub (the answers so far are kept)"
        ) from error


def _is_ours(error: BaseException) -> bool:
    """True for an error of the model, rather than of a task's own functions, ours among them."""
    files = [
        pathlib.Path(frame.f_code.co_filename)
        for frame, _ in traceback.walk_tb(error.__traceback__)
    ]
    for file in reversed(files):
        if file.is_relative_to(HARNESS) or file.is_relative_to(OURS):
            return False
        if file.is_relative_to(PACKAGE):
            return True
    return False


def _alone(tasks: Tasks) -> list[Any]:
    """The tasks that are in no group."""
    grouped = set()
    for group in tasks.loaded["groups"].values():
        grouped |= {task.task_name for task in group.get_all_tasks()}
    return [task for name, task in tasks.loaded["tasks"].items() if name not in grouped]


def _check_known(name: str, known: Sequence[str]) -> None:
    if name in known:
        return
    if name in OF_CLASSIFIERS:
        raise BadInput(
            f"{name} is a measure of classifiers; accepted: for the run of a classifier, or a task "
            "of lm-eval or of ours"
        )
    near = difflib.get_close_matches(name, [*known, *OTHERS], n=3, cutoff=0.5)
    hint = f", such as {', '.join(near)}" if near else ""
    raise BadInput(f"there is no task {name[:100]!r}; accepted: a task of lm-eval or of ours{hint}")


@functools.cache
def _manager() -> TaskManager:
    """lm-eval's index of its tasks and of ours, which takes seconds to make."""
    return TaskManager(include_path=str(OURS))


@contextlib.contextmanager
def _local_files(
    manager: TaskManager,
    names: Sequence[str],
    data_dir: pathlib.Path | None,
    fewshot: int | None,
) -> Iterator[dict[str, str]]:
    """Point tasks to local files, by a Yaml file each that includes the task's own.

    Args:
      manager: its index is changed until the end of the context.
      names: of tasks.
      data_dir: the folder with local files; None for none.
      fewshot: as for `load_tasks`.

    Yields:
      The local files of each task that has them.
    """
    index = manager.task_index
    entries = {name: index[name] for name in names if index[name].yaml_path is not None}
    sources = {}
    subsets: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        try:
            for number, (name, entry) in enumerate(entries.items()):
                config = _config_of(manager, name)
                options = None if data_dir is None else local_options(data_dir, config, fewshot)
                if options is None:
                    continue
                files = options["dataset_kwargs"]["data_files"]
                sources[name] = " and ".join(files.values())
                subset = subsets.setdefault(sources[name], config.get("dataset_name"))
                if subset != config.get("dataset_name"):
                    raise BadInput(
                        f"{sources[name]} would be read for {subset} and for "
                        f"{config['dataset_name']} (task {name}); accepted: a folder of its own "
                        "for each task"
                    )
                # `datasets` takes brackets and stars in a path for patterns.
                escaped = {split: glob.escape(file) for split, file in files.items()}
                options["dataset_kwargs"] = {"data_files": escaped}
                path = pathlib.Path(folder) / f"{number}.yaml"
                included = {"include": str(entry.yaml_path), "task": name}
                path.write_text(yaml.safe_dump(included | options), encoding="utf-8")
                index[name] = dataclasses.replace(entry, yaml_path=path)
            yield sources
        finally:
            index.update(entries)


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


def _config_of(manager: TaskManager, name: str) -> dict[str, Any]:
    """The configuration of a task; a task in Python alone has none."""
    entry = manager.task_index[name]
    config = entry.cfg or {} if entry.yaml_path is None else _config(entry.yaml_path)
    return config | {"task": name}


def _load(manager: TaskManager, name: str, sources: Mapping[str, str]) -> dict[str, Any]:
    """Load one task, group or tag with its data."""
    try:
        with quiet():
            return manager.load([name])
    except BadInput:
        raise
    except ImportError as error:
        raise BadInput(
            f"task {name} needs a package that is not installed ({reason_of(error)}); "
            f"accepted: pip install {(error.name or 'that package').partition('.')[0]}"
        ) from error
    # Tasks and `datasets` raise errors of any type for data that is missing or damaged.
    except Exception as error:
        reason = reason_of(cause_of(error))
        files = [sources.get(member) for member in _members(manager.task_index, [name])]
        if all(files):
            listed_files = " and ".join(dict.fromkeys(files))
            raise BadInput(
                f"task {name} cannot use {listed_files} ({reason}); accepted: files that can be "
                "read, with the fields and the kinds of rows of the set on the hub"
            ) from error
        raise BadInput(
            f"the data of task {name} is not here ({reason}); accepted: a network, or "
            "--data-dir (evaluation.data_dir) with a folder of the task's name that has a file for "
            "each split"
        ) from error


def _check_runs_here(name: str, config: Mapping[str, Any]) -> None:
    if config.get("unsafe_code"):
        raise BadInput(
            f"task {name} runs generated code in this process; "
            "accepted: alpaca_humaneval and alpaca_mbpp, which run it in a sandbox"
        )
    if config.get("output_type") == "multiple_choice_mm" or config.get("doc_to_image"):
        raise BadInput(f"task {name} has images or sounds; accepted: a task of text")


def _check_examples(name: str, task: Any, fewshot: int | None) -> None:
    """Check that there are as many examples for prompts as are asked for."""
    count = task.config.num_fewshot or 0 if fewshot is None else fewshot
    # Some tasks have examples of their own, or none whatever is asked for.
    if not count or (task.config.fewshot_split is None and not task.has_training_docs()):
        return
    present = len(list(task.fewshot_docs()))
    if present < count:
        raise BadInput(
            f"task {name} takes {count} examples for each prompt, and its data has {present}; "
            f"accepted: --fewshot of at most {present}"
        )


def _check_rows(name: str, task: Any, source: str, *, every: bool) -> None:
    """Make the examples of a task, which reads the fields that it needs.

    Args:
      name: the task's.
      task: lm-eval's.
      source: its data set or local files.
      every: True for every row, False for the first, of a set as its authors published it.
    """
    docs = task.eval_docs
    if not len(docs):
        raise BadInput(f"{source} has no rows for task {name}; accepted: at least one")
    for number in range(len(docs) if every else 1):
        try:
            fault = _fault(task, docs[number])
        # A task's own functions read the fields.
        except Exception as error:
            raise BadInput(
                f"task {name} cannot use row {number + 1} of {source}, whose fields are "
                f"{listed(docs.column_names)} ({reason_of(error)}); "
                "accepted: the fields of the set on the hub"
            ) from error
        if fault:
            raise BadInput(
                f"row {number + 1} of {source} has {fault}, for task {name}; "
                "accepted: the values of the set on the hub"
            )


def _fault(task: Any, doc: Mapping[str, Any]) -> str:
    """Describe what is wrong with an example; empty if nothing is."""
    text = task.doc_to_text(doc)
    target = task.doc_to_target(doc)
    if task.OUTPUT_TYPE != "multiple_choice":
        return "" if isinstance(text, str) else f"the prompt {shown(text)}, which is no text"
    if task.config.process_results is not None:
        # Scored by the task's own function, which gives answers a meaning of its own.
        return ""
    choices = task.doc_to_choice(doc)
    if not choices or not all(isinstance(choice, str) for choice in choices):
        return f"the choices {shown(choices)}, which are no texts"
    # Tasks such as Winogrande have a prompt for each choice, and the right one's number as text.
    right = text if task.multiple_input else target
    rights = right if isinstance(right, list) else [right]
    if not rights or not all(_is_choice(one, choices) for one in rights):
        return f"the answer {shown(right)}, which is none of its {len(choices)} choices"
    return ""


def _is_choice(right: Any, choices: Sequence[str]) -> bool:
    if isinstance(right, str):
        return right in choices
    return isinstance(right, int) and 0 <= right < len(choices)
