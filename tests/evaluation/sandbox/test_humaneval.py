"""HumanEval in the sandbox: its own solutions pass, broken ones do not."""

import gzip
import json

import pytest

from balora_jax.evaluation.sandbox.outcomes import Limits
from balora_jax.evaluation.sandbox.programs import run_programs


@pytest.fixture(scope="module")
def problems(shared):
    """The problems of HumanEval."""
    with gzip.open(shared / "data" / "humaneval" / "HumanEval.jsonl.gz", "rt") as file:
        return [json.loads(line) for line in file]


def score(problems, solution):
    """The names of the problems that a solution solves."""
    programs = [
        f"{problem['prompt']}{solution(problem)}\n{problem['test']}\ncheck({problem['entry_point']})"
        for problem in problems
    ]
    outcomes = run_programs(programs, limits=Limits(), workers=2)
    return [
        problem["task_id"]
        for problem, outcome in zip(problems, outcomes, strict=True)
        if outcome.status == "passed"
    ]


def test_all_solutions_pass(problems):
    solved = score(problems, lambda problem: problem["canonical_solution"])
    assert len(problems) == 164
    assert solved == [problem["task_id"] for problem in problems]


def test_no_broken_solution_passes(problems):
    assert score(problems, lambda _: "    return object()\n") == []


def test_an_early_exit_passes_no_problem(problems):
    early_exit = "    import os\n    os._exit(0)\n"
    assert score(problems[:20], lambda _: early_exit) == []
