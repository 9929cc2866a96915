"""lm-eval's tasks with their data, if the package is installed."""

import importlib.util
import pathlib
from collections.abc import Sequence
from typing import Any

from balora_jax import models
from balora_jax.config import RunConfig
from balora_jax.config.paths import FOLDER, check_path
from balora_jax.errors import BadInput
from balora_jax.evaluation.bias.tasks import BIAS_TASKS
from balora_jax.evaluation.evaluator import Evaluator
from balora_jax.evaluation.task_probe import TaskProbe

MT_BENCH = "mt_bench"


def load_harness_tasks(
    names: Sequence[str], data_dir: pathlib.Path | None, fewshot: int | None = None
) -> Any:
    """Load tasks, as `evaluation.harness.tasks.load_tasks` does.

    Args:
      names: of tasks, groups or tags.
      data_dir: a folder with local files; None for the hub.
      fewshot: the examples in a prompt; None for as many as a task has.

    Raises:
      BadInput: lm-eval is not installed, or a task cannot be used.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise BadInput(
            f"{', '.join(names)} need the package lm-eval, which is not installed; "
            'accepted: pip install "balora-jax[eval]"'
        )
    from balora_jax.evaluation.harness.tasks import load_tasks

    return load_tasks(names, data_dir, fewshot)


def with_tasks(evaluator: Evaluator, config: RunConfig, tokenizer: Any) -> Evaluator:
    """Extend the evaluator of a run by its `evaluation.tasks`; without them it stays as it is.

    Args:
      evaluator: of the held-out set.
      config: the run.
      tokenizer: the tokenizer of the model.

    Raises:
      BadInput: a task cannot be used, or would run programs.
    """
    options = config.evaluation
    if not options.tasks:
        return evaluator
    ours = [name for name in options.tasks if name in (*BIAS_TASKS, MT_BENCH)]
    if ours:
        raise BadInput(
            f"evaluation.tasks has {' and '.join(ours)}, which balora evaluate measures; "
            "accepted: lm-eval's tasks, and alpaca_ ones"
        )
    data_dir = None
    if options.data_dir is not None:
        data_dir = check_path("evaluation.data_dir", options.data_dir, kind=FOLDER, must_exist=True)
    tasks = load_harness_tasks(options.tasks, data_dir)
    programs = tasks.of_programs()
    if programs:
        raise BadInput(
            f"evaluation.tasks has {' and '.join(programs)}, which would run the programs that the "
            "model writes; accepted: tasks of text, and balora evaluate for those"
        )
    end_ids = models.end_ids(config.model.source, config.model.revision)
    return TaskProbe(evaluator, tasks, tokenizer, end_ids, limit=options.task_limit)
