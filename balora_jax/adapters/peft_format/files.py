"""The files of a PEFT folder: that they are there and regular, and how to show what is in them."""

import pathlib

from balora_jax.adapters.peft_format.names import WEIGHTS
from balora_jax.errors import BadInput, reason_of

PICKLE = "adapter_model.bin"


def require_file(folder: pathlib.Path, name: str) -> pathlib.Path:
    """Return the path of a file of the folder.

    Args:
      folder: PEFT's folder.
      name: the file's name.

    Raises:
      BadInput: it is no regular file that can be looked up.
    """
    path = folder / name
    try:
        if path.is_file():
            return path
        has_pickle = name == WEIGHTS and (folder / PICKLE).is_file()
        found = "is no regular file" if path.exists() or path.is_symlink() else "is not there"
    except OSError as error:
        has_pickle = False
        found = f"cannot be looked up ({reason_of(error)})"
    if has_pickle:
        raise BadInput(
            f"{folder} has {PICKLE} and no {WEIGHTS}: pickled weights are not read, because "
            "loading them can run any code; accepted: the adapter loaded in PEFT and saved "
            "again with save_pretrained(folder, safe_serialization=True)"
        )
    if (folder / "adapter" / name).is_file():
        found += f", but {folder / 'adapter'} has one"
    raise BadInput(
        f"{folder} is no PEFT adapter: {name} {found}; accepted: a folder that PEFT's "
        "save_pretrained or balora wrote"
    )
