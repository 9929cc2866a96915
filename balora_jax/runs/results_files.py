"""The files that evaluate and audit write, checked before their work begins."""

import os
import pathlib

from balora_jax.errors import BadInput, reason_of
from balora_jax.training.replacing import write_whole

# The first entry of an object of results, which says that the file may be replaced.
WRITTEN_BY = "written_by"
# Of a file, the first bytes that are searched for the words of its writer.
BEGINNING = 4096


def write_new(option: str, path: pathlib.Path, text: str) -> None:
    """Write a new file.

    Args:
      option: the option's name, for the message.
      path: the file.
      text: its content.

    Raises:
      BadInput: another process has created it meanwhile.
    """
    try:
        write_whole(path, text, new=True)
    except FileExistsError as error:
        raise BadInput(
            f"{option} {path} was created by another process meanwhile; accepted: another file"
        ) from error


def check_replaceable(path: pathlib.Path, writer: str) -> None:
    """Check that a file is missing, or was written by a command of ours.

    Args:
      path: the file, which will be replaced.
      writer: its writer's name, such as `balora audit`.

    Raises:
      BadInput: it is another file, a link, a folder or the like.
    """
    if not os.path.lexists(path):
        return
    accepted = "accepted: --out with another folder, or move that away"
    if path.is_symlink() or not path.is_file():
        raise BadInput(f"{path} is no regular file, and would be replaced; {accepted}")
    try:
        with path.open("rb") as file:
            beginning = file.read(BEGINNING)
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({reason_of(error)}); {accepted}") from error
    # As the header of a page and as the first entry of an object have it.
    marks = (f'content="{writer}"', f'"{WRITTEN_BY}": "{writer}"')
    if beginning and not any(mark.encode() in beginning for mark in marks):
        raise BadInput(f"{path} was not written by {writer}, and would be replaced; {accepted}")
