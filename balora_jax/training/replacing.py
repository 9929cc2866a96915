"""Files and folders that are replaced as a whole: a killed writer leaves the old or the new one."""

import contextlib
import ctypes
import errno
import glob
import os
import pathlib
import shutil
import socket
from collections.abc import Iterator

# Endings of the names of a folder that is to take the place of another, and of that other.
NEW = ".part"
OLD = ".old"
# Linux's numbers for renameat2, which Python's os does not offer.
AT_FDCWD = -100
RENAME_EXCHANGE = 2


def write_whole(path: pathlib.Path, text: str, *, new: bool = False) -> None:
    """Write a file as a whole.

    Args:
      path: the file.
      text: its new content.
      new: whether the file must not exist.

    Raises:
      FileExistsError: it must not, and does.
    """
    _clear_up(path)
    partial = path.with_name(f"{_prefix(path)}{os.getpid()}{NEW}")
    # Neither a file of others nor one behind a link is written to.
    with open(partial, "x", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        # Otherwise the file may be empty after a loss of power.
        os.fsync(file.fileno())
    try:
        if new:
            _link_new(partial, path)
        else:
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _link_new(partial: pathlib.Path, path: pathlib.Path) -> None:
    """Give a file its name, unless there is a file of that name already."""
    try:
        os.link(partial, path)
    except FileExistsError:
        raise
    except OSError:
        # A file system without hard links.
        if path.exists():
            raise FileExistsError(errno.EEXIST, "File exists", str(path)) from None
        partial.replace(path)


def is_leftover(name: str) -> bool:
    """Return True for the name of what a killed writer has left beside a file or folder.

    Args:
      name: of a file or folder.
    """
    return name.startswith(".") and name.endswith((NEW, OLD))


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Replace a folder as a whole: the new one is written beside it and renamed at the end.

    If the block raises, the new folder is deleted and the old one stays. Linux exchanges the two in
    one operation. On systems and file systems that cannot, there are two renames; if the process is
    killed between them, the old folder is beside its place, as .NAME-HOST-PROCESS.old, and the next
    call puts it back. Of two processes that replace a folder at once, the later one's stays.

    Args:
      path: the folder, which need not exist; a link to one stays a link.

    Yields:
      The folder to write into.
    """
    path = pathlib.Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear_up(path)
    beside = path.with_name(f"{_prefix(path)}{os.getpid()}{NEW}")
    beside.mkdir()
    try:
        yield beside
        _swap(path, beside)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def _swap(path: pathlib.Path, beside: pathlib.Path) -> None:
    """Put a new folder in the place of the old one, which is deleted."""
    if _exchange(beside, path):
        _remove(beside)
        return
    old = path.with_name(f"{_prefix(path)}{os.getpid()}{OLD}")
    while True:
        with contextlib.suppress(FileNotFoundError):
            path.rename(old)
        try:
            beside.rename(path)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                # The old folder goes back to its place.
                with contextlib.suppress(FileNotFoundError):
                    old.rename(path)
                raise
            # Another process has put its folder there meanwhile: it is replaced, too.
            _remove(old)
            continue
        _remove(old)
        return


def _exchange(left: pathlib.Path, right: pathlib.Path) -> bool:
    """Exchange two folders in one operation; return False if that is not possible."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    here = AT_FDCWD
    return renameat2(here, os.fsencode(left), here, os.fsencode(right), RENAME_EXCHANGE) == 0


def _clear_up(path: pathlib.Path) -> None:
    """Put an old folder back that a killed process has left beside its place; remove the rest."""
    prefix = _prefix(path)
    for ending in (OLD, NEW):
        for leftover in path.parent.glob(f"{glob.escape(prefix)}*{ending}"):
            process = leftover.name.removeprefix(prefix).removesuffix(ending)
            if not process.isdecimal() or (process != str(os.getpid()) and is_running(process)):
                continue
            if ending == OLD and not path.exists():
                leftover.rename(path)
            else:
                _remove(leftover)


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


def _prefix(path: pathlib.Path) -> str:
    """The beginning of the name of a folder that is to take the place of another."""
    return f".{path.name}-{socket.gethostname()}-"


def _remove(path: pathlib.Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
