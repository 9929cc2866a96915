"""Plugin files: Python code, named on the command line alone, that registers terms."""

import hashlib
import importlib.util
import pathlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from balora_jax.config.regularizers import REGISTERED
from balora_jax.errors import BadInput

OPTION = "--plugin"


@dataclass(frozen=True)
class PluginFile:
    """A plugin file that a run was made with.

    Attributes:
      path: where it was.
      sha256: the hash of its text, in hexadecimal.
    """

    path: str
    sha256: str


# The plugin files that were loaded in this process, by hash.
LOADED: dict[str, PluginFile] = {}


def load_plugins(arguments: Sequence[str]) -> list[str]:
    """Load the files that follow --plugin among a command's arguments.

    Args:
      arguments: the command line, without the command's name.

    Returns:
      The other arguments.

    Raises:
      BadInput: --plugin without a file, or as `load_plugin`.
    """
    rest: list[str] = []
    remaining = iter(arguments)
    for argument in remaining:
        option, equals, value = argument.partition("=")
        if option != OPTION:
            rest.append(argument)
            continue
        path = value if equals else next(remaining, "")
        if not path or path.startswith("--"):
            raise BadInput(f"{OPTION} names no file; accepted: {OPTION} FILE.py")
        load_plugin(path)
    return rest


def load_plugin(path: str) -> PluginFile:
    """Run a plugin file, which registers its terms; once a process for the same text.

    Args:
      path: a Python file. It runs with all rights of this process.

    Returns:
      Its record, as config.yaml keeps it.

    Raises:
      BadInput: it is not there, does not import, or registers nothing.
    """
    file = pathlib.Path(path).expanduser()
    if not file.is_file() or file.suffix != ".py":
        raise BadInput(f"{OPTION} {path} is no Python file; accepted: a .py file that is there")
    text = file.read_bytes()
    record = PluginFile(str(path), hashlib.sha256(text).hexdigest())
    if record.sha256 in LOADED:
        return LOADED[record.sha256]

    registered_before = set(REGISTERED)
    name = f"balora_plugin_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        # The text that was hashed, not what the file may hold by now.
        exec(compile(text, str(file), "exec"), module.__dict__)
    except BadInput:
        raise
    except (Exception, SystemExit) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise BadInput(f"{OPTION} {path} cannot be imported ({reason})") from error
    if set(REGISTERED) == registered_before:
        raise BadInput(
            f"{OPTION} {path} registers no term; accepted: a file that calls balora_jax.register_term"
        )
    LOADED[record.sha256] = record
    return record


def require_plugins(recorded: Sequence[PluginFile]) -> None:
    """Check that every plugin file that a configuration records has been loaded, unchanged.

    Raises:
      BadInput: one is missing or its text is another; says what to add to the command.
    """
    hashes = {plugin.sha256 for plugin in recorded}
    others = [plugin for plugin in LOADED.values() if plugin.sha256 not in hashes]
    for plugin in recorded:
        if plugin.sha256 in LOADED:
            continue
        if others:
            raise BadInput(
                f"the plugin {others[0].path} (sha256 {others[0].sha256[:12]}) is not the one the "
                f"run was made with, {plugin.path} (sha256 {plugin.sha256[:12]}); "
                "accepted: a file of the same text"
            )
        raise BadInput(
            f"the run was made with the plugin {plugin.path}, which is code and is loaded from the "
            f"command line alone; accepted: with {OPTION} {plugin.path}"
        )
