"""Programs of answers to HumanEval and MBPP: assembled, run in the sandbox, and counted."""

import gzip
import itertools
import json
import math
import re

import numpy as np
import pytest

from balora_jax.errors import BadInput
from balora_jax.evaluation.sandbox.outcomes import Limits, Outcome
from balora_jax.evaluation.tasks import code, humaneval, mbpp
from balora_jax.evaluation.tasks.evalplus import evalplus_lines

PROMPT = (
    "from typing import List\n\n\n"
    "def helper(x: int) -> int:\n    return x + 1\n\n\n"
    'def last(values: List[int]) -> int:\n    """Return the last value, plus one.\n    """\n'
)
HUMANEVAL = {
    "task_id": "HumanEval/7",
    "prompt": PROMPT,
    "entry_point": "last",
    "canonical_solution": "    return helper(values[-1])\n",
    "test": "def check(candidate):\n    assert candidate([1, 2]) == 3\n",
}
MBPP = {
    "task_id": 12,
    "text": "Write a function to find the sum of the squares.",
    "code": "def squares(values):\r\n    return sum(v * v for v in values)\r\n",
    "test_setup_code": "",
    "test_list": ["assert set([squares([1, 2])]) == {5}", "assert squares([3]) == 9"],
    "challenge_test_list": [],
}
WHOLE = "def last(values: List[int]) -> int:\n    return helper(values[-1])\n"
RIGHT = {
    "the body": HUMANEVAL["canonical_solution"],
    "the body after a line's end": "\n    return helper(values[-1])\n",
    "a body whose first line is not indented": "x = values[-1]\n    return helper(x)\n",
    "a body that is not indented": "for x in values:\n    y = x\nreturn helper(y)",
    "a body and another function": "    return helper(values[-1])\n\n\ndef other():\n    pass\n",
    "a body and prose": "    return helper(values[-1])\n\nThis is the last value plus one.\n",
    "one line and prose": "return helper(values[-1])\n\nThis is the last value plus one.\n",
    "the function": WHOLE,
    "the function in a block": f"Here:\n```python\n{WHOLE}```\nDone.",
    "the prompt again": f"```python\n{PROMPT}    return values[-1] + 1\n```",
    "a body in a block": "```python\n    return helper(values[-1])\n```",
    "own tests that are wrong": f"{WHOLE}\nassert last([1]) == 7\n",
}
WRONG = {
    "another value": "    return values[0]\n",
    "an exception": "    raise ValueError\n",
    "nothing": "",
    "prose": "I cannot do that.",
    "an early exit": "    import os\n    os._exit(0)\n",
    "an early exit at import": f"{WHOLE}\nimport sys\nsys.exit(0)\n",
    "no end": "    while True:\n        pass\n",
    "not valid": "    return (\n",
}


def _sample(doc, *answers):
    return {"doc": doc, "resps": [list(answers)]}


def _passed(samples):
    scores = code.score(samples, limits=Limits(seconds=5), workers=2)
    return [passed for sample in scores.passed for passed in sample]


def test_right_answers_to_humaneval_pass():
    assert _passed([_sample(HUMANEVAL, *RIGHT.values())]) == [True] * len(RIGHT)


def test_wrong_answers_to_humaneval_fail():
    scores = code.score([_sample(HUMANEVAL, *WRONG.values())], limits=Limits(seconds=2), workers=2)
    assert scores.passed == [[False] * len(WRONG)]


def test_answers_to_mbpp():
    right = [MBPP["code"], f"```python\n{MBPP['code']}```", f"Sure!\n\n{MBPP['code']}\nIt sums."]
    wrong = ["def squares(values):\n    return 5\n", "def other(values):\n    return 5\n", ""]
    assert _passed([_sample(MBPP, *right, *wrong)]) == [True] * 3 + [False] * 3


def test_setup_code_of_mbpp_runs_before_the_tests():
    doc = MBPP | {"test_setup_code": "one = [1]", "test_list": ["assert squares(one) == 1"]}
    assert _passed([_sample(doc, MBPP["code"])]) == [True]


def test_samples_keep_their_order_and_numbers(monkeypatch):
    seen = {}

    def run(programs, *, limits, workers, on_done):
        seen.update(limits=limits, workers=workers, programs=programs)
        return [Outcome("passed" if "values[-1]" in text else "failed") for text in programs]

    monkeypatch.setattr(code, "run_programs", run)
    samples = [
        _sample(HUMANEVAL, RIGHT["the body"], "    pass\n"),
        _sample(HUMANEVAL, "    pass\n"),
    ]
    scores = code.score(samples, limits=Limits(seconds=3), workers=4)
    assert scores.passed == [[True, False], [False]]
    assert scores.pass_at(1).tolist() == [0.5, 0.0]
    assert seen["limits"].seconds == 3 and seen["workers"] == 4 and len(seen["programs"]) == 3
    with pytest.raises(BadInput, match="k from 1 to 1"):
        scores.pass_at(2)


def test_a_failure_of_the_sandbox_is_no_score(monkeypatch):
    failed = [Outcome("passed"), Outcome("sandbox failed", "no processes")]
    monkeypatch.setattr(code, "run_programs", lambda *_, **__: failed)
    with pytest.raises(RuntimeError, match="failed for 1 of 2 programs: no processes"):
        code.score([_sample(MBPP, "a", "b")])


@pytest.mark.parametrize("count", [1, 5, 8])
def test_pass_at_k_is_the_share_of_subsets_with_a_pass(count):
    for passed, k in itertools.product(range(count + 1), range(1, count + 1)):
        subsets = list(itertools.combinations(range(count), k))
        expected = np.mean([min(subset) < passed for subset in subsets])
        assert code.pass_at_k(count, passed, k) == pytest.approx(expected, abs=1e-12)


def test_pass_at_k_of_many_answers():
    expected = 1 - math.comb(980, 100) / math.comb(1000, 100)
    assert code.pass_at_k(1000, 20, 100) == pytest.approx(expected, rel=1e-12)


def test_entry_points_of_mbpp():
    assert mbpp.entry_point(MBPP["test_list"]) == "squares"
    assert mbpp.entry_point(["assert 1"]) is None


def test_evalplus():
    samples = [_sample(HUMANEVAL, RIGHT["the body"]), _sample(MBPP, MBPP["code"], "x=1")]
    lines = [json.loads(line) for line in evalplus_lines(samples).splitlines()]
    assert [line["task_id"] for line in lines] == ["HumanEval/7", "Mbpp/12", "Mbpp/12"]
    assert all(list(line) == ["task_id", "solution"] for line in lines)
    namespace = {}
    exec(lines[0]["solution"], namespace)
    assert namespace["last"]([1, 2]) == 3


def _humaneval_rows(shared):
    with gzip.open(shared / "data" / "humaneval" / "HumanEval.jsonl.gz", "rt") as file:
        return [json.loads(line) for line in file]


def _mbpp_rows(shared):
    lines = (shared / "data" / "mbpp" / "mbpp.jsonl").read_text(encoding="utf-8").splitlines()
    return [row for row in map(json.loads, lines) if 11 <= row["task_id"] <= 510]


def test_real_rows_make_valid_programs(shared):
    rows = _humaneval_rows(shared)
    assert len(rows) == 164
    for row in rows:
        body = row["canonical_solution"]
        assert humaneval.score(row, [body]) == {"parses": 1}
        whole = humaneval.score(row, [f"```python\n{row['prompt']}{body}```"])
        assert whole == {"parses": 1}
    rows = _mbpp_rows(shared)
    assert len(rows) == 500
    assert all(mbpp.score(row, [row["code"]]) == {"parses": 1} for row in rows)
    names = [(mbpp.entry_point(row["test_list"]), row["code"]) for row in rows]
    # One row tests a function that it calls sum.
    assert [text for name, text in names if name is None] == [rows[126 - 11]["code"]]
    assert all(name is None or re.search(rf"^def {name}\b", text, re.M) for name, text in names)


def test_reference_solutions_pass_and_broken_ones_fail(shared):
    humaneval_rows = _humaneval_rows(shared)[::40]
    mbpp_rows = _mbpp_rows(shared)[::125]
    right = [_sample(row, row["canonical_solution"]) for row in humaneval_rows]
    right += [_sample(row, row["code"]) for row in mbpp_rows]
    broken = [_sample(row, "    return None\n") for row in humaneval_rows]
    broken += [_sample(row, "def f():\n    return None\n") for row in mbpp_rows]
    assert all(_passed(right))
    assert not any(_passed(broken))
