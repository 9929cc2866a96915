"""The lock on a run folder: whoever comes second is refused, whichever file system holds it."""

import errno
import fcntl
import os
import pathlib
import socket
import subprocess
import sys

import pytest

from balora_jax.errors import BadInput
from balora_jax.training import run_lock
from balora_jax.training.run_lock import OWNER_FILE, RunLock


def test_a_folder_that_does_not_exist_is_locked_when_it_is_created(tmp_path):
    folder = tmp_path / "run"
    with RunLock(folder) as first:
        assert not folder.exists()
        first.acquire()
        first.acquire()
        with pytest.raises(BadInput, match=r"is being written by another process \(.* since .*\)"):
            RunLock(folder).acquire()
        with RunLock(tmp_path / "other") as other:
            other.acquire()
    with RunLock(folder) as lock:
        lock.acquire()


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    code = (
        "import sys, pathlib; from balora_jax.training.run_lock import RunLock;"
        "RunLock(pathlib.Path(sys.argv[1])).acquire(); print('locked', flush=True); input()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "run")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=pathlib.Path(__file__).parents[2],
    )
    assert process.stdout.readline() == b"locked\n"
    with pytest.raises(BadInput, match=f"{process.pid} since"):
        RunLock(tmp_path / "run").acquire()
    process.kill()
    process.wait()
    with RunLock(tmp_path / "run") as lock:
        lock.acquire()


@pytest.fixture
def without_flock(monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)


def test_without_flock_a_file_is_the_lock(tmp_path, without_flock):
    with RunLock(tmp_path) as lock:
        lock.acquire()
        with pytest.raises(BadInput, match=f"if that process has ended, without .*{OWNER_FILE}"):
            RunLock(tmp_path).acquire()
    assert not (tmp_path / OWNER_FILE).exists()


def test_without_flock_the_file_of_a_killed_process_of_this_host_is_replaced(
    tmp_path, without_flock, monkeypatch
):
    owner = tmp_path / OWNER_FILE
    owner.write_text(f"{socket.gethostname()} {os.getpid()} since then\n")
    monkeypatch.setattr(run_lock, "is_running", lambda process: False)
    with RunLock(tmp_path) as lock:
        lock.acquire()
        assert owner.read_text().startswith(f"{socket.gethostname()} {os.getpid()} since 2")
    owner.write_text("another 1 since then\n")
    with pytest.raises(BadInput, match="another 1 since then"):
        RunLock(tmp_path).acquire()


def test_a_link_in_place_of_the_lock_is_refused(tmp_path):
    target = tmp_path / "precious"
    target.write_text("mine")
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ".lock").symlink_to(target)
    with pytest.raises(BadInput, match="cannot be opened"):
        RunLock(folder).acquire()
    assert target.read_text() == "mine"
