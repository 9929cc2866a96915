"""The folder of the PEFT adapter that a run continues from."""

import pathlib
import reprlib

from balora_jax.config.adapter import START_SETTINGS, start_spellings
from balora_jax.errors import BadInput


def peft_folder(init: str) -> pathlib.Path:
    """Return the folder of the PEFT adapter that adapter.init names.

    Args:
      init: the value of the option.

    Raises:
      BadInput: there is no such folder.
    """
    try:
        folder = pathlib.Path(init).expanduser()
        if folder.is_dir():
            return folder
    except (OSError, RuntimeError):
        # A name that is too long, a folder that may not be entered, or no such user.
        pass
    names = [spelling for name in START_SETTINGS for spelling in start_spellings(name)]
    raise BadInput(
        f"adapter.init is {reprlib.repr(init) if len(init) > 300 else repr(init)}; accepted: "
        f"{', '.join(names)}, or a PEFT adapter's folder"
    )
