"""The user's folder of caches: its place, and what its folders hold in bytes."""

import os
import pathlib
import shutil

# The user's choice of another folder.
VARIABLE = "BALORA_CACHE"


def cache_folder(name: str) -> pathlib.Path:
    """Return the folder of one kind of cache; nothing is made.

    It is in $BALORA_CACHE, or in balora_jax in $XDG_CACHE_HOME or ~/.cache.

    Args:
      name: compiled, tokens or runs.

    Raises:
      OSError: the user has no home folder.
    """
    chosen = os.environ.get(VARIABLE)
    if chosen:
        return _absolute(chosen) / name
    # A relative path there is to be ignored (XDG base directory specification).
    shared = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(shared):
        shared = "~/.cache"
    return _absolute(shared) / "balora_jax" / name


def make_private(folder: pathlib.Path) -> None:
    """Make a folder that other users can neither read nor write, and check that it can be written.

    Args:
      folder: the folder, which may exist.

    Raises:
      OSError: it cannot be made or written.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"{folder} is not this user's to write")


def discard_oldest(folder: pathlib.Path, most: int) -> None:
    """Delete the entries of a cache that were not used for longest, until the others fit.

    Args:
      folder: the folder of a cache; each folder in it is an entry, used when it was last modified.
      most: bytes of all entries together; the entry that was used last always stays.
    """
    entries = [entry for entry in folder.iterdir() if entry.is_dir() and not entry.is_symlink()]
    entries.sort(key=lambda entry: entry.stat().st_mtime, reverse=True)
    total = 0
    for number, entry in enumerate(entries):
        total += sum(file.stat().st_size for file in entry.iterdir())
        # Whoever reads one keeps its open files.
        if number and total > most:
            shutil.rmtree(entry, ignore_errors=True)


def _absolute(name: str) -> pathlib.Path:
    try:
        return pathlib.Path(name).expanduser().absolute()
    # A user that does not exist, or a zero byte.
    except (RuntimeError, ValueError) as error:
        raise OSError(f"there is no folder {name!r} ({error})") from error
