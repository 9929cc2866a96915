"""Folders that are replaced as a whole, and what killed writers leave."""

import errno
import os
import pathlib
import socket
import subprocess
import sys

import pytest

from balora_jax.training import replacing as replacing_module
from balora_jax.training.replacing import replacing, write_whole


@pytest.fixture(params=["exchanged", "renamed"], autouse=True)
def way(request, monkeypatch):
    """Both ways to put a folder in the place of another."""
    if request.param == "renamed":
        monkeypatch.setattr(replacing_module, "_exchange", lambda left, right: False)


def _names(folder):
    return sorted(path.name for path in folder.iterdir())


def _fill(folder, text):
    with replacing(folder) as beside:
        (beside / "a").write_text(text)


def test_a_folder_is_replaced_with_all_its_files(tmp_path):
    folder = tmp_path / "out" / "merged"
    _fill(folder, "old")
    (folder / "left over").write_text("from before")
    _fill(folder, "new")
    assert _names(folder) == ["a"] and (folder / "a").read_text() == "new"
    assert _names(tmp_path / "out") == ["merged"]


def test_an_error_leaves_the_old_folder(tmp_path):
    folder = tmp_path / "merged"
    _fill(folder, "old")
    with pytest.raises(OSError), replacing(folder) as beside:
        (beside / "a").write_text("half")
        raise OSError("No space left on device")
    assert (folder / "a").read_text() == "old" and _names(tmp_path) == ["merged"]


def test_what_killed_writers_left_is_cleared_up(tmp_path):
    folder = tmp_path / "merged"
    host = socket.gethostname()
    # Killed while writing, and between the two renames.
    (tmp_path / f".merged-{host}-{2**22 + 1}.part").mkdir()
    running = tmp_path / f".merged-{host}-{os.getppid()}.part"
    running.mkdir()
    replaced = tmp_path / f".merged-{host}-{2**22 + 1}.old"
    replaced.mkdir()
    (replaced / "a").write_text("old")
    with pytest.raises(ValueError), replacing(folder):
        assert (folder / "a").read_text() == "old"
        raise ValueError
    assert _names(tmp_path) == [running.name, "merged"]


def test_a_file_in_place_of_the_folder_is_replaced(tmp_path):
    path = tmp_path / "merged"
    path.write_text("a file")
    _fill(path, "new")
    assert path.is_dir()


def test_a_file_is_written_as_a_whole(tmp_path, monkeypatch):
    path = tmp_path / "config.yaml"
    write_whole(path, "old")

    def full(descriptor):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError):
        write_whole(path, "new")
    assert path.read_bytes() == b"old"


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "large disk").mkdir()
    link = tmp_path / "merged"
    link.symlink_to(tmp_path / "large disk")
    _fill(link, "new")
    assert link.is_symlink() and (tmp_path / "large disk" / "a").read_text() == "new"


def test_a_users_folder_of_a_similar_name_stays(tmp_path):
    (tmp_path / "merged.old").mkdir()
    _fill(tmp_path / "merged", "new")
    assert _names(tmp_path) == ["merged", "merged.old"]


REPLACE = """
import os, pathlib, sys
from balora_jax.training.replacing import replacing
for _ in range(100):
    with replacing(pathlib.Path(sys.argv[1])) as beside:
        (beside / "writer").write_text(str(os.getpid()))
        (beside / "again").write_text(str(os.getpid()))
"""


def test_two_processes_that_replace_a_folder_leave_one_whole(tmp_path):
    folder = tmp_path / "merged"
    command = [sys.executable, "-c", REPLACE, str(folder)]
    root = pathlib.Path(__file__).parents[2]
    writers = [
        subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, text=True) for _ in range(3)
    ]
    for writer in writers:
        _, errors = writer.communicate()
        assert writer.returncode == 0, errors
    assert (folder / "writer").read_text() == (folder / "again").read_text()
    assert _names(tmp_path) == ["merged"]


@pytest.mark.parametrize("kind", ["file", "link"])
def test_nothing_beside_a_file_is_written_to(tmp_path, kind):
    """Not what another has under a name that a writer may use, and not what is behind a link."""
    path = tmp_path / "out.json"
    mine = tmp_path / "mine"
    mine.write_text("mine")
    for name in ("out.json.part", f".out.json-{socket.gethostname()}-mine.part"):
        if kind == "link":
            (tmp_path / name).symlink_to(mine)
        else:
            (tmp_path / name).write_text("mine")
    before = _names(tmp_path)
    write_whole(path, "new")
    assert _names(tmp_path) == sorted([*before, "out.json"])
    assert path.read_text() == "new" and mine.read_text() == "mine"


def test_what_a_killed_writer_of_a_file_left_is_cleared_up(tmp_path):
    path = tmp_path / "out.json"
    (tmp_path / f".out.json-{socket.gethostname()}-{2**22 + 1}.part").write_text("half")
    write_whole(path, "new")
    assert _names(tmp_path) == ["out.json"]


@pytest.mark.parametrize("links", [True, False])
def test_a_new_file_takes_no_place(tmp_path, monkeypatch, links):
    def refuse(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "out.json"
    write_whole(path, "first", new=True)
    with pytest.raises(FileExistsError):
        write_whole(path, "second", new=True)
    assert path.read_text() == "first" and _names(tmp_path) == ["out.json"]
