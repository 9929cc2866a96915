"""Files and folders that are replaced as a whole: a killed writer leaves the old or the new one."""

import contextlib
import os
import pathlib
import shutil
import socket
from collections.abc import Iterator


def write_whole(path: pathlib.Path, text: str) -> None:
    """Write a file as a whole.

    Args:
      path: the file.
      text: its new content.
    """
    partial = path.with_name(path.name + ".part")
    partial.write_text(text)
    partial.replace(path)


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Replace a folder as a whole: the new one is written beside it and renamed at the end.

    If the block raises, the new folder is deleted and the old one stays. If the process is killed
    between the two renames, the old folder is beside its place, as .NAME.replaced; the next call
    puts it back.

    Args:
      path: the folder, which need not exist.

    Yields:
      The folder to write into.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    old = _old(path)
    if old.exists() and not path.exists():
        old.rename(path)
    _discard_leftovers(path)
    beside = path.with_name(f"{_prefix(path)}{os.getpid()}.part")
    beside.mkdir()
    try:
        yield beside
        if path.exists():
            path.rename(old)
        beside.rename(path)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    _remove(old)


def _discard_leftovers(path: pathlib.Path) -> None:
    """Remove what killed writers of this host left beside a folder."""
    for leftover in path.parent.glob(f"{_prefix(path)}*.part"):
        writer = leftover.name.removeprefix(_prefix(path)).removesuffix(".part")
        if writer == str(os.getpid()) or not is_running(writer):
            _remove(leftover)
    if path.exists():
        _remove(_old(path))


def is_running(process: str) -> bool:
    """Return True if a process of this host has that number."""
    if not process.isdecimal():
        return False
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _old(path: pathlib.Path) -> pathlib.Path:
    """The name of a folder while the new one takes its place."""
    return path.with_name(f".{path.name}.replaced")


def _prefix(path: pathlib.Path) -> str:
    """The beginning of the name of a folder that is to take the place of another."""
    return f".{path.name}-{socket.gethostname()}-"


def _remove(path: pathlib.Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
