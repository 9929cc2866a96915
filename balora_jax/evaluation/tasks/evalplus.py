"""Programs in the form that EvalPlus reads, for its stricter tests (Liu et al., 2305.01210)."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from balora_jax.evaluation.tasks.code import solution_of


def evalplus_lines(samples: Sequence[Mapping[str, Any]]) -> str:
    """Write the programs of a task's samples, a line of JSON each: task_id and solution.

    EvalPlus then runs them in a container of its own:
    `evalplus.evaluate --dataset humaneval --samples PATH`.

    Args:
      samples: as for `code.score`, of HumanEval or of MBPP.

    Returns:
      The content of a .jsonl file.
    """
    lines = []
    for sample in samples:
        doc = sample["doc"]
        name = doc["task_id"] if "entry_point" in doc else f"Mbpp/{doc['task_id']}"
        for answer in sample["resps"][0]:
            line = {"task_id": name, "solution": solution_of(doc, answer)}
            lines.append(json.dumps(line) + "\n")
    return "".join(lines)
