"""Checksums of the files in a folder, in the format of sha256sum: written once, then checked."""

import errno
import hashlib
import os
import pathlib
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from balora_jax.errors import reason_of
from balora_jax.hosts import on_host
from balora_jax.training.replacing import write_whole

CHECKSUMS = "SHA256SUMS"
# Lines that sha256sum skips: the hash of the other lines, and the hash of the arrays.
OWN_HASH = "# these lines: "
ARRAYS_HASH = "# the arrays: "


@dataclass(frozen=True)
class Check:
    """The result of a check of a folder by its checksums.

    Attributes:
      fault: the first file that is missing or has changed, and how; None if there is none.
      checked: False if the folder has no usable checksums, as a checkpoint of version 0.1.
      arrays: the hash of the arrays in the folder, from `hash_arrays`; None if unknown.
    """

    fault: str | None
    checked: bool
    arrays: str | None = None


def write_checksums(folder: pathlib.Path, arrays: str | None = None) -> None:
    """Write the SHA-256 hash of every file in a folder into SHA256SUMS there.

    `sha256sum --check SHA256SUMS` checks them, too.

    Args:
      folder: the folder, with all its files.
      arrays: the hash of the arrays that the files hold, from `hash_arrays`.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != CHECKSUMS)
    lines = [f"{_hash_file(path)}  {path.relative_to(folder).as_posix()}\n" for path in files]
    if arrays is not None:
        lines.insert(0, f"{ARRAYS_HASH}{arrays}\n")
    write_whole(folder / CHECKSUMS, with_own_hash("".join(lines)))


def check_checksums(folder: pathlib.Path) -> Check:
    """Compare the files of a folder with its checksums.

    Args:
      folder: the folder.

    Returns:
      The first fault, if any.
    """
    if not folder.is_dir():
        return Check("it is no folder", checked=False)
    text = _read_checksums(folder / CHECKSUMS)
    if text is None:
        return Check(None, checked=False)
    arrays = None
    for line in text.splitlines():
        if line.startswith(ARRAYS_HASH):
            arrays = line.removeprefix(ARRAYS_HASH)
            continue
        expected, _, name = line.partition("  ")
        try:
            actual = _hash_file(folder / name)
        except OSError as error:
            return Check(f"{name} cannot be read ({reason_of(error)})", True, arrays)
        if actual != expected:
            return Check(f"{name} has changed since it was written", True, arrays)
    return Check(None, True, arrays)


def are_damaged(folder: pathlib.Path) -> bool:
    """Return True if a folder has checksums that cannot be used.

    Args:
      folder: the folder.
    """
    path = folder / CHECKSUMS
    return os.path.lexists(path) and _read_checksums(path) is None


def hash_arrays(tree: Any) -> str:
    """Hash the shapes, dtypes and values of a tree's arrays.

    Args:
      tree: arrays, which may be divided over devices; the same in every process.

    Returns:
      The SHA-256 hash, in hexadecimal.
    """
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.ascontiguousarray(on_host(leaf))
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.view(np.uint8).reshape(-1))
    return digest.hexdigest()


def with_own_hash(text: str) -> str:
    """Put a line with the hash of a text before it; the line is a comment in Yaml.

    Args:
      text: the text.
    """
    return f"{OWN_HASH}{_hash_text(text)}\n{text}"


def has_own_hash(text: str) -> bool:
    """Return True if a text begins with the line that `with_own_hash` puts there.

    Args:
      text: the text, which may have changed since.
    """
    return text.startswith(OWN_HASH)


def is_as_written(text: str) -> bool:
    """Return True if a text from `with_own_hash` has not changed since.

    Args:
      text: the text with its first line.
    """
    first, _, rest = text.partition("\n")
    return first == OWN_HASH + _hash_text(rest)


def _read_checksums(path: pathlib.Path) -> str | None:
    """The lines that SHA256SUMS hashes, or None if they are missing or damaged themselves."""
    if not path.is_file():
        return None
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    _, _, rest = text.partition("\n")
    return rest if has_own_hash(text) and is_as_written(text) else None


def _hash_file(path: pathlib.Path) -> str:
    # A named pipe would wait for a writer.
    if path.exists() and not path.is_file():
        raise IsADirectoryError(errno.EISDIR, "no regular file")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hash_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
