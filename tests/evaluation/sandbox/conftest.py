"""The levels of isolation that this machine allows, and a look at the processes left behind."""

import os
import pathlib
import tempfile

import pytest

from balora_jax.evaluation.sandbox import levels, program
from balora_jax.evaluation.sandbox.supervisor import kernel, processes

# Readable by all users, unlike an interpreter in a home folder.
SYSTEM_PYTHON = "/usr/bin/python3"


def allow(level, monkeypatch):
    """Skip the test if the machine does not allow a level."""
    reason = levels.refusal(level)
    if reason is not None and level == "other user":
        monkeypatch.setattr(program, "PYTHON", SYSTEM_PYTHON)
        reason = levels.refusal.__wrapped__(level)
    if reason is not None:
        pytest.skip(f"this machine does not allow the level {level}: {reason}")
    return level


@pytest.fixture(params=["namespaces", "other user", "same user"])
def level(request, monkeypatch):
    """Each level of isolation."""
    return allow(request.param, monkeypatch)


@pytest.fixture(params=["namespaces", "other user"])
def safe_level(request, monkeypatch):
    """Each level that keeps programs from the files and processes of this user."""
    return allow(request.param, monkeypatch)


@pytest.fixture
def namespaces(monkeypatch):
    """The level of namespaces."""
    return allow("namespaces", monkeypatch)


@pytest.fixture
def open_folder():
    """A folder that other users can enter, unlike those of pytest."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder)
        path.chmod(0o755)
        yield path


@pytest.fixture
def left_behind():
    """A function that lists the processes begun since and still running.

    Orphans become children of this process while the fixture lasts.
    """
    kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
    before = set(processes.descendants())

    def running():
        new = [pid for pid in processes.descendants() if pid not in before]
        return [pid for pid in new if not _reaped(pid)]

    yield running
    kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 0)


def _reaped(pid):
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return False
