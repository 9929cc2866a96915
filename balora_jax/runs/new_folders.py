"""Folders of --out: new or empty ones, which are written as a whole."""

import contextlib
import os
import pathlib
from collections.abc import Iterator

from safetensors import SafetensorError

from balora_jax.errors import BadInput, OutputError, system_reason
from balora_jax.training.replacing import replacing


def check_new_folder(path: pathlib.Path) -> None:
    """Check that a folder of --out may be written.

    Args:
      path: the folder.

    Raises:
      BadInput: it exists and is not empty, or is the folder that the command runs in.
    """
    if os.path.lexists(path) and (not path.is_dir() or any(path.iterdir())):
        raise BadInput(f"--out {path} exists and is not empty; accepted: a new or empty folder")
    if path.resolve() == pathlib.Path.cwd():
        # The folder is replaced as a whole, and the command's place would be gone.
        raise BadInput(f"--out {path} is the folder that the command runs in; accepted: another")


@contextlib.contextmanager
def replacing_folder(path: pathlib.Path, *, new: bool) -> Iterator[pathlib.Path]:
    """Replace a folder as a whole, with one sentence where its tensors cannot be written.

    Args:
      path: the folder.
      new: True for one of --out, which is checked again at the end: another process may have
        written there.

    Yields:
      The folder to write to, beside it.

    Raises:
      BadInput: as `check_new_folder`.
      OutputError: the disk is full, or fails.
    """
    try:
        with replacing(path) as beside:
            yield beside
            if new:
                check_new_folder(path)
    except SafetensorError as error:
        raise OutputError(
            f"{path} could not be written ({system_reason(error)}); what was there still is: make "
            "room and repeat the command"
        ) from error
