"""The paths that options name, checked before anything is loaded or written."""

import contextlib
import errno
import os
import pathlib
import stat
from collections.abc import Collection

from balora_jax.config.addresses import check_address, is_address
from balora_jax.errors import BadInput, OutputError

LONGEST = 4096
# Bytes of a folder's name; file systems have 255, and folders beside it have longer names.
LONGEST_NAME = 150
# The folders in a run's that only the run writes.
OF_RUN = frozenset({"adapter", "checkpoints", "damaged", "merged", "plots", "tensorboard", "wandb"})
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
FILE = "a file"
FOLDER = "a folder"
FILE_OR_FOLDER = "a file or a folder"
SYSTEM = ("/proc/", "/sys/")


def check_path(option: str, value: str, *, kind: str, must_exist: bool = False) -> pathlib.Path:
    """Check the path that an option names; nothing is opened.

    Args:
      option: the option's name, for the message.
      value: its value. What names nothing on this machine may be a name on the hub.
      kind: what it must be if it exists: FILE, FOLDER or FILE_OR_FOLDER.
      must_exist: True if it must exist.

    Returns:
      The path, with ~ replaced by the home folder.

    Raises:
      BadInput: it is no possible path, something else than a file or folder, or of the other kind.
    """
    shown = f"{option} {value[:200]!r}" + (" ..." if len(value) > 200 else "")
    if not value or len(value) > LONGEST or "\0" in value or not _is_whole(value):
        raise BadInput(
            f"{shown} is no path; accepted: the path of {kind}, of 1 to {LONGEST} characters"
        )
    if is_address(value):
        raise BadInput(f"{shown} is an address; accepted: the path of {kind} on this machine")
    if kind == FOLDER and "\\" in os.path.abspath(value):
        # The library that stores checkpoints takes it for a slash.
        raise BadInput(f"{shown} has a backslash; accepted: the path of {kind} without one")
    try:
        path = pathlib.Path(value).expanduser()
    except RuntimeError as error:
        raise BadInput(f"{shown} names an unknown user; accepted: the path of {kind}") from error
    try:
        found = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        if path.is_symlink():
            raise BadInput(f"{shown} is a link to nothing; accepted: the path of {kind}") from None
        if must_exist:
            raise BadInput(f"{shown} does not exist; accepted: the path of {kind}") from None
        return path
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BadInput(
            f"{shown} cannot be used ({reason}); accepted: the path of {kind}"
        ) from error
    is_right = {FILE: stat.S_ISREG(found), FOLDER: stat.S_ISDIR(found)}
    if not is_right.get(kind, any(is_right.values())):
        raise BadInput(f"{shown} is {_describe(found)}; accepted: {kind}")
    # They are endless, or wait for their writer, and say that they are files.
    if kind != FOLDER and os.path.realpath(path).startswith(SYSTEM):
        raise BadInput(f"{shown} is a file of the system; accepted: {kind} of one's own")
    return path


def check_run_folder(option: str, value: str, *, must_exist: bool = False) -> None:
    """Check the option that names a run's folder, which may be in a bucket; nothing is opened.

    Args:
      option: the option's name, for the message.
      value: its value.
      must_exist: True if it must exist, of a folder on this machine.

    Raises:
      BadInput: it can be no run's folder.
    """
    if is_address(value):
        check_address(option, value)
    else:
        check_path(option, value, kind=FOLDER, must_exist=must_exist)


def check_output(option: str, value: str) -> pathlib.Path:
    """Check that a folder can be written to, or created.

    Args:
      option: the option's name, for the message.
      value: its value.

    Returns:
      The path, with ~ replaced by the home folder.

    Raises:
      BadInput: it is no folder, cannot be created or written to, or is a part of a run's.
      OutputError: the disk is full.
    """
    path = check_path(option, value, kind=FOLDER)
    _check_place(option, path)
    if path.is_dir():
        # Gone meanwhile: of another process that tried, as below.
        if not os.access(path, os.W_OK | os.X_OK) and path.is_dir():
            raise BadInput(
                f"{option} {value[:200]!r} cannot be written to; accepted: a folder that can"
            )
        return path
    missing = path
    try:
        while not missing.parent.exists():
            missing = missing.parent
        # Nothing but the attempt tells whether a folder can be created.
        missing.mkdir()
        # Another process may have written there already.
        with contextlib.suppress(OSError):
            missing.rmdir()
    except FileExistsError:
        # Another process has just created it.
        return path
    except OSError as error:
        if not missing.parent.exists():
            # That was of another process that tried, as this one did.
            return path
        if error.errno in FULL:
            raise OutputError(
                f"{option} {value[:200]!r} could not be created ({error.strerror}); make room and "
                "repeat the command"
            ) from error
        raise BadInput(
            f"{option} {value[:200]!r} cannot be created ({error.strerror}); "
            "accepted: a folder that exists, or one in a folder that can be written to"
        ) from error
    return path


def check_output_of_run(value: str) -> None:
    """Check that output.dir can be written to, or created; a run checks a bucket when it begins.

    Args:
      value: of output.dir.

    Raises:
      BadInput: as for `check_output`.
      OutputError: as for `check_output`.
    """
    if not is_address(value):
        check_output("output.dir", value)


def check_new_file(option: str, value: str, suffixes: Collection[str]) -> pathlib.Path:
    """Check that a file can be created.

    Args:
      option: the option's name, for the message.
      value: its value.
      suffixes: the endings that its name may have.

    Returns:
      The path, with ~ replaced by the home folder.

    Raises:
      BadInput: it exists, has another ending or a long name, or its folder cannot be written to.
      OutputError: the disk is full.
    """
    path = check_path(option, value, kind=FILE)
    if path.suffix not in suffixes:
        raise BadInput(
            f"{option} is {value[:200]!r}; accepted: a name that ends in {' or '.join(suffixes)}"
        )
    if path.exists():
        raise BadInput(f"{option} {path} exists; accepted: a new file")
    _check_place(option, path)
    check_output(option, str(path.parent))
    return path


def _check_place(option: str, path: pathlib.Path) -> None:
    """Check that a folder to write has a name of a usual length and is no part of a run's."""
    if len(os.fsencode(path.name)) > LONGEST_NAME:
        raise BadInput(
            f"{option} has the name {path.name[:50]!r} ... of {len(path.name)} characters; "
            f"accepted: a name of at most {LONGEST_NAME} bytes"
        )
    place = path.absolute()
    for run in place.parents:
        inside = place.relative_to(run).parts[0]
        if inside in OF_RUN and (run / "config.yaml").is_file():
            raise BadInput(
                f"{option} {str(path)[:200]!r} is in {inside}/ of a run, which only the run "
                "writes; accepted: another folder"
            )


def _is_whole(value: str) -> bool:
    """False for a name that is not UTF-8, which files of options and records cannot hold."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _describe(mode: int) -> str:
    """Name the kind of a file."""
    kinds = {
        stat.S_IFREG: "a file",
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a named pipe",
        stat.S_IFSOCK: "a socket",
    }
    return kinds.get(stat.S_IFMT(mode), "a device")
