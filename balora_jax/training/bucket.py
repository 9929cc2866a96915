"""A run folder in a bucket, and the copy of it on this host, which the run writes.

The bucket is the truth: a run begins with a copy of it, and sends what has changed there when a
checkpoint is complete and when it ends. A folder in a bucket has no renames, so the order keeps it
whole: the checksums of a checkpoint are sent before its files, which are missed if they do not
follow, and deleted after them; older checkpoints are deleted after newer ones are there, but before
another configuration is sent; summary.json comes last.
"""

import contextlib
import errno
import os
import pathlib
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import fsspec

from balora_jax.config.addresses import is_address
from balora_jax.errors import BadInput, OutputError, reason_of
from balora_jax.training import checksums
from balora_jax.training.replacing import is_leftover

# Names the run that writes the folder; another one that goes on with it takes its place there.
OWNER = ".owner"
TRIAL = ".trial-"
CONFIG = "config.yaml"
SUMMARY = "summary.json"
LOCKS = frozenset({".lock", ".lock.owner"})
# orbax writes a checkpoint in a folder of this name, and renames it when it is complete.
UNFINISHED = ".orbax-checkpoint-tmp"
# Of a folder that another run changes meanwhile, or of files that are deleted while they are sent.
ATTEMPTS = 5
# Of this host alone: no bucket's library says so.
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
# What a listing says of an object that changes with its content, by the bucket's library.
VERSION = ("ETag", "etag", "md5Hash", "size", "LastModified", "updated", "last_modified", "created")
# The folders that this process has copies of, by their addresses.
_OPEN: dict[str, "Bucket"] = {}


class Unsent(OutputError):
    """Output that could not be sent to a bucket; the message names the copy that still has it."""


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
        # Of each file in the bucket when it was copied: its version.
        self.versions: dict[str, str] = {}

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

    def fetch(self, say: Callable[[str], None] | None = None) -> None:
        """Make the copy the same as the folder in the bucket; all else in the copy is deleted.

        Args:
          say: gets a sentence on how much is copied.

        Raises:
          BadInput: the bucket cannot be read, or holds a name that leads out of the folder.
          OutputError: this host has no room for the copy.
        """
        for attempt in range(1, ATTEMPTS + 1):
            try:
                self._receive(say)
                return
            except BadInput:
                raise
            except Exception as error:  # each library raises its own
                if isinstance(error, OSError) and error.errno in FULL:
                    raise Unsent(
                        f"{self.copy} cannot hold a copy of {self.address} ({error.strerror}); "
                        "make room, or name another folder by BALORA_CACHE"
                    ) from error
                # The run that writes there may have deleted a file since it was listed.
                if isinstance(error, FileNotFoundError) and attempt < ATTEMPTS:
                    continue
                raise BadInput(
                    f"{self.address} cannot be read ({reason_of(error)}); accepted: a folder in a "
                    "bucket that this user may read"
                ) from error

    def _receive(self, say: Callable[[str], None] | None) -> None:
        """Copy every file from the bucket."""
        self._clear()
        files, root = self._open()
        self.versions = self._listed(files, root)
        for name in self.versions:
            if "\\" in name or "\0" in name or not {"", ".", ".."}.isdisjoint(name.split("/")):
                raise BadInput(
                    f"{self.address} holds {name[:200]!r}; accepted: the files of a run alone"
                )
            (self.copy / name).parent.mkdir(parents=True, exist_ok=True)
        names = list(self.versions)
        if names and say is not None:
            size = sum(files.sizes([f"{root}/{name}" for name in names]))
            say(f"copying {self.address}: {len(names)} files, {size / 1e6:,.1f} MB ...")
        if names:
            theirs = [f"{root}/{name}" for name in names]
            files.get(theirs, [str(self.copy / name) for name in names])
        self._same = _stamps(self.copy)

    def _listed(self, files: Any, root: str) -> dict[str, str]:
        """The files of the run in the bucket, and their versions."""
        files.invalidate_cache()
        found = {
            path.removeprefix(root).lstrip("/"): about
            for path, about in files.find(root, detail=True).items()
        }
        return {
            name: repr([str(about.get(key)) for key in VERSION])
            for name, about in found.items()
            if name and not name.endswith("/") and not _is_own(name)
        }

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
        """Become the run that writes the folder, and send how it begins.

        What is new is sent, then what the run has deleted is deleted, as by output.overwrite, and
        then the rest is sent: another configuration never stands beside checkpoints that it did not
        make.

        Raises:
          BadInput: the folder has changed since it was copied, by a run that writes there.
          OutputError: the bucket cannot be written to.
        """
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        owner = f"{socket.gethostname()} {os.getpid()} since {now}, {uuid.uuid4().hex}"
        with self._sending() as (files, root):
            if self._listed(files, root) != self.versions:
                raise BadInput(
                    f"{self.address} has changed since this run read it, so another run writes "
                    "there; accepted: another folder, or this one after that run has ended"
                )
            files.pipe_file(f"{root}/{OWNER}", owner.encode())
            self._owner = owner
            here = _stamps(self.copy)
            self._send(files, root, [name for name in here if name not in self.versions])
            self._delete(files, root, self.versions.keys() - here.keys())
        self.push()

    def push(self, say: Callable[[str], None] | None = None) -> None:
        """Send what has changed in the copy, and delete what was deleted there.

        Nothing is sent before `claim`.

        Args:
          say: gets a sentence on how much is sent.

        Raises:
          OutputError: the bucket cannot be written to, or another run has claimed the folder.
        """
        if self._owner is None:
            return
        changed = self._changed()
        if changed and say is not None:
            say(f"sending {len(changed)} files to {self.address} ...")
        with self._sending() as (files, root):
            self._send(files, root, changed)
            self._delete(files, root, self._same.keys() - _stamps(self.copy).keys())

    def add(self) -> None:
        """Send what is new or has changed in the copy, as a command does that reads the run.

        Of the folders that it has written in, what it has deleted is deleted, too.

        Raises:
          OutputError: the bucket cannot be written to.
        """
        changed = self._changed()
        folders = {name.partition("/")[0] for name in changed}
        with self._sending() as (files, root):
            self._send(files, root, changed)
            gone = self._same.keys() - _stamps(self.copy).keys()
            self._delete(files, root, [name for name in gone if name.partition("/")[0] in folders])

    def _changed(self) -> list[str]:
        """The names of files that the bucket does not have as they are here."""
        stamps = _stamps(self.copy)
        return [name for name, stamp in stamps.items() if self._same.get(name) != stamp]

    def _send(self, files: Any, root: str, names: Iterable[str]) -> None:
        """Send files in the order that keeps the run whole."""
        for group in _in_order(names):
            self._check_owner(files, root)
            for attempt in range(1, ATTEMPTS + 1):
                # A checkpoint may be deleted, or a logger's file, while it is sent.
                stamps = _stamps(self.copy)
                there = [name for name in group if name in stamps]
                ours = [str(self.copy / name) for name in there]
                try:
                    files.put(ours, [f"{root}/{name}" for name in there])
                    break
                except FileNotFoundError:
                    if attempt == ATTEMPTS or all(map(os.path.exists, ours)):
                        raise
            self._same |= {name: stamps[name] for name in there}

    def _delete(self, files: Any, root: str, names: Iterable[str]) -> None:
        """Delete files in the order that keeps the run whole."""
        if names:
            self._check_owner(files, root)
        # As they are sent, the other way round: a checkpoint without all files has its checksums.
        for group in reversed(_in_order(names)):
            for name in group:
                with contextlib.suppress(FileNotFoundError):
                    files.rm_file(f"{root}/{name}")
                self._same.pop(name, None)

    def _check_owner(self, files: Any, root: str) -> None:
        """Check that no other run has claimed the folder; a command that adds has not either."""
        if self._owner is None:
            return
        owner = files.cat_file(f"{root}/{OWNER}").decode(errors="replace")
        if owner != self._owner:
            raise Unsent(
                f"{self.address} is written by another run now ({owner[:200]}), so this one ends; "
                f"what it had not sent is in {self.copy} until a run of that address begins here"
            )

    @contextlib.contextmanager
    def _sending(self) -> Iterator[tuple[Any, str]]:
        """Turn whatever the bucket's library raises into one sentence."""
        try:
            yield self._open()
        except (BadInput, OutputError):
            raise
        except Exception as error:  # each library raises its own
            raise Unsent(
                f"{self.address} could not be written to ({reason_of(error)}); what was sent is "
                f"whole, and the rest is in {self.copy} until a run of that address begins here: "
                "--output.resume goes on from the last checkpoint that was sent"
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

    Raises:
      BadInput: as within, with the address in place of the copy.
      OutputError: likewise.
    """
    outer = _OPEN.get(bucket.address)
    _OPEN[bucket.address] = bucket
    try:
        yield
    except Unsent:
        raise
    except (BadInput, OutputError) as error:
        sentence = str(error)
        raise type(error)(sentence.replace(str(bucket.copy), bucket.address)) from error
    finally:
        if outer is None:
            del _OPEN[bucket.address]
        else:
            _OPEN[bucket.address] = outer


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


def _is_own(name: str) -> bool:
    """True for what is no part of the run in a bucket."""
    return name == OWNER or name in LOCKS or name.startswith(TRIAL)


def _stamps(folder: pathlib.Path) -> dict[str, tuple[int, int]]:
    """The sizes and times of the files in a folder that belong to a run, by their names."""
    stamps = {}
    for place, _, names in os.walk(folder, onerror=_require_gone):
        for path in (pathlib.Path(place, name) for name in names):
            parts = path.relative_to(folder).parts
            if any(is_leftover(part) or UNFINISHED in part for part in parts) or _is_own(parts[0]):
                continue
            with contextlib.suppress(FileNotFoundError):
                if path.is_file() and not path.is_symlink():
                    found = path.stat()
                    stamps["/".join(parts)] = (found.st_size, found.st_mtime_ns)
    return stamps


def _require_gone(error: OSError) -> None:
    """Raise an error of a listing, unless the folder is gone, as an older checkpoint may be."""
    if not isinstance(error, FileNotFoundError):
        raise error


def _in_order(names: Iterable[str]) -> list[list[str]]:
    """Group names so that a run is whole, or known not to be, after each group is sent."""
    groups: dict[tuple, list[str]] = {}
    for name in names:
        groups.setdefault(_order(name), []).append(name)
    return [groups[order] for order in sorted(groups)]


def _order(name: str) -> tuple:
    """The configuration, the other files of the folder, the start, checkpoints, and the summary."""
    folder, _, file = name.rpartition("/")
    if not folder:
        return ({CONFIG: 0, SUMMARY: 4}.get(name, 1),)
    is_start = folder.startswith("checkpoints/initial")
    return (2 if is_start else 3, file != checksums.CHECKSUMS)
