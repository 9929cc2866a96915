"""A run folder in a bucket, and its copy on this host, which the run writes.

The bucket is the truth: a run begins with a copy of it, and sends what has changed there when a
checkpoint is complete and when it ends. A folder in a bucket has no renames, so the order makes it
whole: the checksums of a checkpoint are sent before its files, which are missed if they do not
follow, older checkpoints are deleted after newer ones are there, and summary.json comes last.
"""

import contextlib
import os
import pathlib
import shutil
import socket
import time
import uuid
from collections.abc import Iterable, Iterator
from typing import Any

import fsspec

from balora_jax.config.addresses import is_address
from balora_jax.errors import BadInput, OutputError, reason_of
from balora_jax.training import checksums
from balora_jax.training.replacing import is_leftover

# Names the run that writes the folder; another one that resumes it takes its place there.
OWNER = ".owner"
TRIAL = ".trial-"
SUMMARY = "summary.json"
# Listings of a folder that another run changes meanwhile.
ATTEMPTS = 5
LOCKS = frozenset({".lock", ".lock.owner"})
# orbax writes a checkpoint in a folder of this name, and renames it when it is complete.
UNFINISHED = ".orbax-checkpoint-tmp"


# The folders that this process has copies of, by their addresses.
_OPEN: dict[str, "Bucket"] = {}


class Bucket:
    """A folder in a bucket and a folder on this host.

    Attributes:
      address: of the folder in the bucket.
      copy: the folder on this host.
    """

    def __init__(self, address: str, copy: pathlib.Path) -> None:
        """Name the two; nothing is read or written.

        Args:
          address: such as gs://bucket/run, from `config.addresses`.
          copy: a folder of this process alone, which need not exist.
        """
        self.address = address.rstrip("/")
        self.copy = copy
        self._owner: str | None = None
        # Of each file that is the same in both: its size and time on this host.
        self._same: dict[str, tuple[int, int]] = {}

    def check(self) -> None:
        """Check that the bucket can be written to, by the attempt.

        Raises:
          BadInput: it cannot.
        """
        try:
            files, root = self._open()
            trial = f"{root}/{TRIAL}{uuid.uuid4().hex}"
            files.pipe_file(trial, b"")
            files.rm_file(trial)
        except Exception as error:  # each library raises its own
            raise BadInput(
                f"{self.address} cannot be written to ({reason_of(error)}); accepted: a bucket "
                "that exists, and that this user may write to"
            ) from error

    def fetch(self) -> None:
        """Make the copy the same as the folder in the bucket; all else in the copy is deleted.

        Raises:
          BadInput: the bucket cannot be read, or holds a name that leads out of the folder.
        """
        for attempt in range(1, ATTEMPTS + 1):
            try:
                names = self._receive()
                break
            except BadInput:
                raise
            except Exception as error:  # each library raises its own
                # The run that writes there may have deleted a file since it was listed.
                if isinstance(error, FileNotFoundError) and attempt < ATTEMPTS:
                    continue
                raise BadInput(
                    f"{self.address} cannot be read ({reason_of(error)}); accepted: a folder in a "
                    "bucket that this user may read"
                ) from error
        self._same = {name: _stamp(self.copy / name) for name in names}

    def _receive(self) -> list[str]:
        """Copy every file from the bucket, and return their names."""
        self._clear()
        files, root = self._open()
        files.invalidate_cache()
        names = [path.removeprefix(root).lstrip("/") for path in files.find(root)]
        names = [name for name in names if name and not name.endswith("/")]
        names = [name for name in names if name != OWNER and not name.startswith(TRIAL)]
        for name in names:
            if "\\" in name or "\0" in name or not {"", ".", ".."}.isdisjoint(name.split("/")):
                raise BadInput(
                    f"{self.address} holds {name[:200]!r}; accepted: the files of a run alone"
                )
            (self.copy / name).parent.mkdir(parents=True, exist_ok=True)
        if names:
            theirs = [f"{root}/{name}" for name in names]
            files.get(theirs, [str(self.copy / name) for name in names])
        return names

    def _clear(self) -> None:
        """Delete all but the locks from the copy."""
        self.copy.mkdir(mode=0o700, parents=True, exist_ok=True)
        for entry in self.copy.iterdir():
            if entry.name in LOCKS:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()

    def claim(self) -> None:
        """Become the run that writes the folder.

        Raises:
          OutputError: the bucket cannot be written to.
        """
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        self._owner = f"{socket.gethostname()} {os.getpid()} since {now}, {uuid.uuid4().hex}"
        with self._sending() as (files, root):
            files.pipe_file(f"{root}/{OWNER}", self._owner.encode())

    def push(self) -> None:
        """Send what has changed in the copy, and delete what was deleted there.

        Nothing is sent before `claim`.

        Raises:
          OutputError: the bucket cannot be written to, or another run has claimed the folder.
        """
        if self._owner is None:
            return
        with self._sending() as (files, root):
            self._check_owner(files, root)
            self._send(files, root)
            for name in self._same.keys() - set(_names(self.copy)):
                with contextlib.suppress(FileNotFoundError):
                    files.rm_file(f"{root}/{name}")
                del self._same[name]

    def add(self) -> None:
        """Send what is new or has changed in the copy, as a command does that reads the run.

        Raises:
          OutputError: the bucket cannot be written to.
        """
        with self._sending() as (files, root):
            self._send(files, root)

    def _send(self, files: Any, root: str) -> None:
        here = {name: _stamp(self.copy / name) for name in _names(self.copy)}
        changed = [name for name, stamp in here.items() if self._same.get(name) != stamp]
        for group in _in_order(changed):
            ours = [str(self.copy / name) for name in group]
            files.put(ours, [f"{root}/{name}" for name in group])
            self._same |= {name: here[name] for name in group}

    def _check_owner(self, files: Any, root: str) -> None:
        owner = files.cat_file(f"{root}/{OWNER}").decode(errors="replace")
        if owner != self._owner:
            raise OutputError(
                f"{self.address} is written by another run now ({owner[:200]}), so this one ends; "
                f"what it had not sent is in {self.copy}"
            )

    @contextlib.contextmanager
    def _sending(self) -> Iterator[tuple[Any, str]]:
        """Turn whatever the bucket's library raises into one sentence."""
        try:
            yield self._open()
        except OutputError:
            raise
        except Exception as error:  # each library raises its own
            raise OutputError(
                f"{self.address} could not be written to ({reason_of(error)}); what was sent is "
                f"whole, the rest is in {self.copy}: repeat the command with --output.resume, "
                "which goes on from the last checkpoint that was sent"
            ) from error

    def _open(self) -> tuple[Any, str]:
        """The bucket's file system, and the folder's name there."""
        files, root = fsspec.core.url_to_fs(self.address)
        return files, root.rstrip("/")


@contextlib.contextmanager
def opened(bucket: Bucket) -> Iterator[None]:
    """Let the process use a folder in a bucket by its address, as its copy.

    Args:
      bucket: the two.
    """
    _OPEN[bucket.address] = bucket
    try:
        yield
    finally:
        del _OPEN[bucket.address]


def open_bucket(name: str) -> Bucket | None:
    """Return the open folder with an address; None for a path.

    Args:
      name: an address or a path.

    Raises:
      BadInput: it is an address, and not open.
    """
    if not is_address(name):
        return None
    try:
        return _OPEN[name.rstrip("/")]
    except KeyError as error:
        raise BadInput(f"{name[:200]!r} is an address; accepted here: a path") from error


def as_named(path: pathlib.Path) -> str:
    """Return a path as a user names it: within an open folder by the address in the bucket.

    Args:
      path: of a file or folder.
    """
    for bucket in _OPEN.values():
        if path.is_relative_to(bucket.copy):
            return f"{bucket.address}/{path.relative_to(bucket.copy).as_posix()}"
    return str(path)


def _names(folder: pathlib.Path) -> Iterator[str]:
    """The names of the files in a folder that belong to a run."""
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if any(is_leftover(part) or UNFINISHED in part for part in parts) or parts[0] in LOCKS:
            continue
        if path.is_file() and not path.is_symlink():
            yield "/".join(parts)


def _in_order(names: Iterable[str]) -> list[list[str]]:
    """Group names so that a run is whole, or known not to be, after each group."""
    groups: list[list[str]] = [[], [], [], []]
    for name in names:
        folder, _, file = name.rpartition("/")
        if name == SUMMARY:
            groups[3].append(name)
        elif not folder:
            groups[0].append(name)
        else:
            groups[1 if file == checksums.FILE else 2].append(name)
    return [group for group in groups if group]


def _stamp(path: pathlib.Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns
