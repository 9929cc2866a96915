"""Twelve kills of runs and commands of all kinds: nothing is lost, and nothing becomes different.

By hand more: python tests/faults/kill.py --runs 200
"""

import pathlib
import runpy
import subprocess
import sys

import pytest

SCRIPT = pathlib.Path(__file__).with_name("kill.py")
# Kinds that share a model are together: it is made once.
GROUPS = [
    (4, "pissa", "export", "merge", "generate"),
    (2, "accumulation", "residual"),
    (2, "full", "patience"),
    (2, "classifier", "seq2seq"),
    (1, "probes"),
    (1, "compare"),
]


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: "-".join(group[1:]))
def test_kills_lose_nothing(group):
    runs, *kinds = group
    command = [sys.executable, str(SCRIPT), "--runs", str(runs), "--kinds", *kinds, "--seed", "3"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "kills: 0 lost, 0 different" in done.stdout


def test_every_kind_is_in_a_group():
    assert sum(runs for runs, *_ in GROUPS) == 12
    kinds = [kind for _, *kinds in GROUPS for kind in kinds]
    assert sorted(kinds) == sorted(runpy.run_path(str(SCRIPT))["KINDS"])
