"""Commands on several hosts: all processes do the same, and process 0 prints and writes."""

import contextlib
import json
import os
import pathlib
import tempfile
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import Any

from balora_jax.errors import BadInput, reason_of
from balora_jax.training import processes
from balora_jax.training.interrupt import ends_by_signal

# What is in a file need be no text.
ANY_BYTES = "latin-1"


def meet(options: Any) -> None:
    """Join the processes of other hosts, where there are any, and check that all do the same.

    Args:
      options: of the command, with `mesh`.

    Raises:
      BadInput: they are not found, or have other options or another version.
    """
    mesh = options.mesh
    if not mesh.joins:
        return
    processes.join(mesh)
    # Those of another command have other options.
    same = {"command": type(options), "version of balora_jax": version("balora-jax")}
    processes.require_same(same)
    shared = vars(options) | {"mesh": mesh.shared}
    processes.require_same({f"configuration ({name})": value for name, value in shared.items()})


@contextlib.contextmanager
def meeting(options: Any) -> Iterator[None]:
    """Do a command together with the processes of other hosts; only process 0 prints.

    Args:
      options: as for `meet`.

    Raises:
      BadInput: as `meet` does.
    """
    meet(options)
    if not options.mesh.joins:
        yield
        return
    # jax has replaced the handlers.
    with ends_by_signal("before its end; the same command starts it again"):
        if processes.is_first():
            yield
        else:
            print(processes.place(), flush=True)
            with _in_silence():
                yield


@contextlib.contextmanager
def _in_silence() -> Iterator[None]:
    """Print nothing; an error's sentence is printed after it."""
    with (
        pathlib.Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield


@contextlib.contextmanager
def writing_together(folder: pathlib.Path, patterns: Sequence[str]) -> Iterator[pathlib.Path]:
    """Go on with a folder of results; the other processes have a copy of process 0's for now.

    So all of them find the same work done, also where hosts share no disk.

    Args:
      folder: of process 0; it need not exist.
      patterns: the names of the files that a command goes on with.

    Yields:
      The folder to read and write.

    Raises:
      BadInput: in every process, if process 0 cannot read a file.
    """
    if not processes.are_joined():
        yield folder
        return
    files = {}
    with processes.together(f"process 0 cannot read {folder}"):
        if processes.is_first():
            files = _contents(folder, patterns)
    files = json.loads(processes.of_first(json.dumps(files).encode()))
    if processes.is_first():
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="balora-process-") as own:
        copy = pathlib.Path(own)
        for name, text in files.items():
            (copy / name).write_bytes(text.encode(ANY_BYTES))
        yield copy


def _contents(folder: pathlib.Path, patterns: Sequence[str]) -> dict[str, str]:
    """The bytes of files, a character each, by their names."""
    paths = [path for pattern in patterns for path in folder.glob(pattern) if path.is_file()]
    try:
        return {path.name: path.read_bytes().decode(ANY_BYTES) for path in paths}
    except OSError as error:
        raise BadInput(
            f"{folder} cannot be read ({reason_of(error)}); accepted: another --out"
        ) from error
