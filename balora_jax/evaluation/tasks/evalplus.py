"""Programs in the form that EvalPlus reads, for its stricter tests (Liu et al., 2305.01210)."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from balora_jax.evaluation.tasks.code import solution_of
from balora_jax.training.replacing import write_whole


def write_evalplus(path: pathlib.Path, samples: Sequence[Mapping[str, Any]]) -> None:
    """Write the programs of a task's samples, a line of JSON each: task_id and solution.

    EvalPlus then runs them in a container of its own:
    `evalplus.evaluate --dataset humaneval --samples PATH`.

    Args:
      path: the file, which ends in .jsonl.
      samples: as for `code.score`, of HumanEval or of MBPP.
    """
    lines = []
    for sample in samples:
        doc = sample["doc"]
        name = doc["task_id"] if "entry_point" in doc else f"Mbpp/{doc['task_id']}"
        for answer in sample["resps"][0]:
            line = {"task_id": name, "solution": solution_of(doc, answer)}
            lines.append(json.dumps(line) + "\n")
    write_whole(path, "".join(lines))
