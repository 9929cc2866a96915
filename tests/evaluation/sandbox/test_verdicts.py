"""Verdicts: only a program that runs through passes, whatever it prints or replaces."""

import time

import pytest

from balora_jax.errors import BadInput
from balora_jax.evaluation.sandbox.levels import IN_WORDS, isolation, strongest_level
from balora_jax.evaluation.sandbox.outcomes import Limits, Outcome
from balora_jax.evaluation.sandbox.programs import run_programs

LIMITS = Limits(seconds=5, cpu_seconds=5)

PASSING = {
    "nothing": "",
    "prints": "print('failed')",
    "dataclass": """
import dataclasses, pickle
@dataclasses.dataclass
class Point:
    x: int
assert pickle.loads(pickle.dumps(Point(3))) == Point(3)
""",
    "module_name": "assert __name__ != '__main__'",
    "no_input": "import sys\nassert sys.stdin.read() == ''",
    "closed_streams": "import os\nfor number in range(3): os.close(number)",
    "replaced_functions": """
import builtins, os, sys
os.write = os.read = os.getpid = os._exit = None
sys.exit = builtins.exec = builtins.compile = builtins.getattr = None
""",
    "thread_that_stays": """
import threading, time
threading.Thread(target=time.sleep, args=(60,)).start()
""",
    "child_that_ends": """
import os
child = os.fork()
if child == 0:
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
""",
    "temporary_file": """
import os, tempfile
with tempfile.NamedTemporaryFile() as file:
    assert os.path.dirname(file.name) == os.getcwd() == os.path.expanduser('~')
""",
    "same_order_each_time": "import sys\nassert not sys.flags.hash_randomization",
}

FAILING = {
    "assertion": ("def f(): pass\nassert f() == 1, 'no'", "AssertionError: no (line 2)"),
    "early_exit": ("import os\nos._exit(0)\nassert False", "exit code 0"),
    "sys_exit": ("import sys\nsys.exit(0)", "SystemExit: 0"),
    "system_exit": ("raise SystemExit", "SystemExit"),
    "interrupt": ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    "forged_print": (
        'import os\nprint(\'passed\'); print(\'{"status": "passed", "detail": ""}\', flush=True)\n'
        "os._exit(0)",
        "exit code 0",
    ),
    "forged_everywhere": (
        "import os\nfor number in range(64):\n"
        "    try: os.write(number, b'passed')\n"
        "    except OSError: pass\n"
        "os._exit(0)",
        "exit code 0",
    ),
    "replaced_assertion": (
        "import builtins, sys, os\n"
        "builtins.AssertionError = builtins.BaseException = SystemExit\n"
        "sys.excepthook = os._exit = print\n"
        "assert False",
        "AssertionError",
    ),
    "replaced_exec": ("import builtins\nbuiltins.exec = lambda *_: 0\n1 / 0", "ZeroDivisionError"),
    "message_that_raises": (
        "class Odd(Exception):\n    def __str__(self): raise ValueError\nraise Odd",
        "",
    ),
    "child_runs_through": (
        "import os\nif os.fork():\n    os.wait()\n    raise ValueError('parent')",
        "ValueError: parent",
    ),
    "channel_closed": ("import os\nos.closerange(0, 64)", ""),
    "word_lost": ("import os\nos.read(3, 64)\nos.write(3, b'0' * 32)\nos._exit(0)", "exit code 0"),
    "signal": ("import os\nos.kill(os.getpid(), 11)", "SIGSEGV"),
    "recursion": ("def f(): f()\nf()", "RecursionError"),
    "nul": ("x = 1\0", "null bytes"),
    "surrogate": ("x = '\ud800'", "surrogates"),
    "syntax": ("def f(:", "SyntaxError"),
    "nesting": ("(" * 100_000, ""),
    "no_package": ("import jax", "ModuleNotFoundError"),
    "no_balora": ("import balora_jax", "ModuleNotFoundError"),
    "claims_sandbox": ("raise OSError('sandbox failed')", "sandbox failed"),
}


def test_programs_that_run_through_pass(level):
    outcomes = run_programs(list(PASSING.values()), limits=LIMITS, workers=2, level=level)
    assert dict(zip(PASSING, outcomes, strict=True)) == dict.fromkeys(PASSING, Outcome("passed"))


def test_programs_that_end_before_fail(level):
    programs = [program for program, _ in FAILING.values()]
    outcomes = run_programs(programs, limits=LIMITS, workers=2, level=level)
    for name, outcome in zip(FAILING, outcomes, strict=True):
        assert outcome.status == "failed", name
        assert FAILING[name][1] in outcome.detail, name
        assert len(outcome.detail) <= 300 and outcome.detail.isprintable()


def test_a_large_source_is_read_whole(level):
    program = f"text = '{'x' * 10**7}'\nassert len(text) == 10**7"
    [outcome] = run_programs([program], limits=LIMITS, workers=1, level=level)
    assert outcome.status == "passed"


def test_a_slow_program_costs_the_others_nothing():
    begin = time.monotonic()
    done = {}
    programs = ["while True: pass", "x = 1", "assert False"]
    outcomes = run_programs(programs, limits=Limits(seconds=2), workers=2, on_done=done.__setitem__)
    assert [outcome.status for outcome in outcomes] == ["timed out", "passed", "failed"]
    assert done == dict(enumerate(outcomes))
    assert list(done)[-1] == 0
    assert time.monotonic() - begin < 10


def test_no_programs_give_no_outcomes():
    assert run_programs([], limits=LIMITS, workers=2) == []


def test_levels_are_described():
    assert len({isolation(level) for level in IN_WORDS}) == 3
    assert isolation() == isolation(strongest_level())
    assert all("no network" in isolation(level) for level in IN_WORDS)
    assert "delete this user's files" in isolation("same user")


@pytest.mark.parametrize("value", [0, -1, float("inf"), float("nan")])
def test_a_limit_is_positive(value):
    with pytest.raises(BadInput, match="seconds"):
        Limits(seconds=value)
