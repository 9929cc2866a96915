"""The lock on a run folder: one process writes there at a time."""

import contextlib
import errno
import fcntl
import os
import pathlib
import socket
import time
from typing import Self

import jax

from balora_jax.errors import BadInput
from balora_jax.training.replacing import is_running
from balora_jax.training.run_folder import CONFIG

FILE = ".lock"
# On file systems without flock: a file that exists while the run writes.
OWNER_FILE = ".lock.owner"
NO_FLOCK = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF})


class RunLock:
    """A context in which at most one process may write to a run folder.

    The lock is flock's on the file .lock, which the system releases however the process ends. NFS
    (Linux 2.6.12 and newer), SMB, CephFS, GPFS and Lustre mounted with flock keep it between hosts.
    Elsewhere the file .lock.owner, which is created only if it does not exist, is the lock: it
    names host and process, and one that a killed process of this host has left is replaced.

    On several hosts process 0, which writes, holds it.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        """Name the folder; nothing is locked.

        Args:
          folder: the run folder, which need not exist.
        """
        self._folder = folder
        self._descriptor: int | None = None
        self._owned: pathlib.Path | None = None

    def __enter__(self) -> Self:
        """Lock the folder if it holds a run; `acquire` locks a new one when it is created.

        Raises:
          BadInput: another process writes there.
        """
        if (self._folder / CONFIG).is_file():
            self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        """Release the lock."""
        if self._owned is not None:
            self._owned.unlink(missing_ok=True)
            self._owned = None
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def acquire(self) -> None:
        """Create the folder if it does not exist, and lock it; nothing if it is locked already.

        Raises:
          BadInput: another process writes there.
        """
        if self._descriptor is not None or jax.process_index() != 0:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / FILE
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            descriptor = os.open(path, flags, 0o644)
        except OSError as error:
            raise BadInput(
                f"{path} cannot be opened ({error.strerror}); accepted: a folder to write to"
            ) from error
        try:
            self._lock(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, _owner().encode(), 0)

    def _lock(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.pread(descriptor, 300, 0).decode(errors="replace").strip()
            raise self._refusal(owner) from error
        except OSError as error:
            if error.errno not in NO_FLOCK:
                raise
            self._create_owner_file()

    def _create_owner_file(self) -> None:
        path = self._folder / OWNER_FILE
        with contextlib.suppress(FileNotFoundError):
            host, process = (*path.read_text(errors="replace").split()[:2], "", "")[:2]
            if host == socket.gethostname() and not is_running(process):
                path.unlink(missing_ok=True)
        try:
            with path.open("x") as file:
                file.write(_owner())
        except FileExistsError:
            owner = path.read_text(errors="replace").strip()[:300]
            raise self._refusal(owner, f", or, if that process has ended, without {path}") from None
        self._owned = path

    def _refusal(self, owner: str, hint: str = "") -> BadInput:
        process = f"another process ({owner or 'unknown'})"
        return BadInput(
            f"output.dir {self._folder} is being written by {process}; "
            f"accepted: another folder, or this one after that process has ended{hint}"
        )


def holder(folder: pathlib.Path) -> str:
    """Return what names the process that holds, or held, the lock on a folder; empty if none has.

    Args:
      folder: the run folder.
    """
    try:
        return (folder / FILE).read_text(errors="replace")
    except OSError:
        return ""


def _owner() -> str:
    """This host and process, and the time, as the lock's file names them."""
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    return f"{socket.gethostname()} {os.getpid()} since {now}\n"
