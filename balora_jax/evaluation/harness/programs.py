"""The pass rate of a task's programs, as a metric among lm-eval's."""

from collections.abc import Callable
from typing import Any

import numpy as np

from balora_jax.evaluation.sandbox.outcomes import Outcome
from balora_jax.evaluation.tasks import code

PASS = "pass@1"


def add_pass_rate(
    results: dict[str, Any], task: str, on_done: Callable[[int, Outcome], None]
) -> None:
    """Run the programs of a task's samples, and add pass@1 to the results.

    Args:
      results: lm-eval's, with samples; changed.
      task: the task's name.
      on_done: called with the number of each program and its outcome.

    Raises:
      BadInput: this machine can run no program.
    """
    samples = results["samples"][task]
    scores = code.score(samples, on_done=on_done)
    passed = scores.pass_at(1)
    for sample, share, outcomes in zip(samples, passed, scores.outcomes, strict=True):
        sample[PASS] = float(share)
        sample["outcomes"] = [f"{outcome.status}: {outcome.detail}" for outcome in outcomes]
        sample["metrics"] = [*sample["metrics"], PASS, "outcomes"]
    kept = samples[0]["filter"]
    values = results["results"][task]
    values[f"{PASS},{kept}"] = float(passed.mean())
    if len(passed) > 1:
        values[f"{PASS}_stderr,{kept}"] = float(passed.std(ddof=1) / np.sqrt(len(passed)))
    results["higher_is_better"].setdefault(task, {})[PASS] = True
