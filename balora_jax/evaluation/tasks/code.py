"""Pass rates of generated programs: run in the sandbox after all answers have been generated."""

import dataclasses
import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from balora_jax.errors import BadInput
from balora_jax.evaluation.sandbox.outcomes import Limits, Outcome
from balora_jax.evaluation.sandbox.programs import run_programs
from balora_jax.evaluation.tasks import humaneval, mbpp

# In a task's metadata: its answers are programs, which `score` runs.
EXECUTES_CODE = "executes_code"
SANDBOX_FAILED = "sandbox failed"


@dataclasses.dataclass(frozen=True)
class CodeScores:
    """The outcomes of the programs of one task.

    Attributes:
      outcomes: those of each sample's answers.
    """

    outcomes: tuple[tuple[Outcome, ...], ...]

    @property
    def passed(self) -> list[list[bool]]:
        """The answers that passed, of each sample."""
        return [[outcome.status == "passed" for outcome in sample] for sample in self.outcomes]

    def pass_at(self, k: int = 1) -> np.ndarray:
        """Compute the unbiased estimate of pass@k for each sample, float64 [samples].

        Args:
          k: answers of which one has to pass.

        Raises:
          BadInput: a sample has fewer answers.
        """
        return np.array([pass_at_k(len(sample), sum(sample), k) for sample in self.passed])


def pass_at_k(count: int, passed: int, k: int) -> float:
    """Estimate the probability that one of k answers passes, without bias.

    1 - C(n - c, k) / C(n, k) of Chen et al. (arXiv 2107.03374), equation 1, as a product.

    Args:
      count: n, the answers to a problem.
      passed: c, those that passed.
      k: the answers of which one has to pass.

    Raises:
      BadInput: k is not between 1 and n.
    """
    if not 1 <= k <= count:
        raise BadInput(f"pass@{k} of {count} answers; accepted: k from 1 to {count}")
    if count - passed < k:
        return 1.0
    failed = np.arange(count - passed + 1, count + 1)
    return float(1.0 - np.prod(1.0 - k / failed))


def score(
    samples: Sequence[Mapping[str, Any]],
    *,
    limits: Limits | None = None,
    workers: int | None = None,
    on_done: Callable[[int, Outcome], None] | None = None,
) -> CodeScores:
    """Run the programs of a task's samples in the sandbox, several at a time.

    Args:
      samples: lm-eval's, of one or more tasks: each with its `doc` (of HumanEval or MBPP) and
        `resps`, whose first item is the list of its answers.
      limits: those of each program; None for the sandbox's.
      workers: programs at one time; None for the machine's processors.
      on_done: called with a program's number and its outcome.

    Returns:
      The outcomes.

    Raises:
      BadInput: this machine can run no program.
      RuntimeError: the sandbox failed for a program, which says nothing about the program.
    """
    counts = [len(sample["resps"][0]) for sample in samples]
    programs = [
        program_of(sample["doc"], answer) for sample in samples for answer in sample["resps"][0]
    ]
    outcomes = run_programs(
        programs,
        limits=limits or Limits(),
        workers=workers or os.cpu_count() or 1,
        on_done=on_done,
    )
    failures = [outcome.detail for outcome in outcomes if outcome.status == SANDBOX_FAILED]
    if failures:
        raise RuntimeError(
            f"the sandbox failed for {len(failures)} of {len(outcomes)} programs: {failures[0]}"
        )
    ends = np.cumsum([0, *counts])
    parts = [tuple(outcomes[start:end]) for start, end in itertools.pairwise(ends)]
    return CodeScores(tuple(parts))


def solution_of(doc: Mapping[str, Any], answer: str) -> str:
    """Return the program of an answer, without tests.

    Args:
      doc: a row of HumanEval or MBPP.
      answer: the model's.
    """
    return _task_of(doc).solution(doc, answer)


def program_of(doc: Mapping[str, Any], answer: str) -> str:
    """Return the program that tests an answer.

    Args:
      doc: a row of HumanEval or MBPP.
      answer: the model's.
    """
    return _task_of(doc).program(doc, answer)


def _task_of(doc: Mapping[str, Any]) -> ModuleType:
    return humaneval if "entry_point" in doc else mbpp
