"""Plugin files: Python code that registers terms, given on the command line only."""

import hashlib
import importlib.util
import pathlib
import sys
import types
from collections.abc import Sequence
from dataclasses import dataclass

from balora_jax.config.paths import FILE, check_path
from balora_jax.config.regularizers import REGISTERED
from balora_jax.errors import BadInput, reason_of

OPTION = "--plugin"


@dataclass(frozen=True)
class PluginFile:
    """The record of a plugin file that a run uses.

    Attributes:
      path: the path as it was given.
      sha256: the SHA-256 hash of the file, in hexadecimal.
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
      BadInput: --plugin has no file, or the file cannot be loaded (see `load_plugin`).
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
    """Run a plugin file, which registers its terms; a file with the same text runs once a process.

    The hash is that of this file's text alone: modules that it imports are not in it. A file that
    is refused leaves nothing registered.

    Args:
      path: a Python file. It runs with all rights of this process.

    Returns:
      The record of the file, for config.yaml.

    Raises:
      BadInput: the file does not exist, fails when it is run, or registers no term.
    """
    file = check_path(OPTION, path, kind=FILE)
    try:
        text = file.read_bytes() if file.suffix == ".py" else None
    except OSError:
        text = None
    if text is None:
        raise BadInput(
            f"{OPTION} {path[:300]} is no Python file; accepted: a .py file that is there"
        )
    record = PluginFile(str(path), hashlib.sha256(text).hexdigest())
    if record.sha256 in LOADED:
        return LOADED[record.sha256]

    registered_before = dict(REGISTERED)
    name = f"balora_plugin_{file.stem}_{record.sha256[:12]}"
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        _run(text, file, module)
        if registered_before == REGISTERED:
            raise BadInput(
                f"{OPTION} {path} registers no term; "
                "accepted: a file that calls balora_jax.register_term"
            )
    except BaseException:
        del sys.modules[name]
        REGISTERED.clear()
        REGISTERED.update(registered_before)
        raise
    LOADED[record.sha256] = record
    return record


def _run(text: bytes, file: pathlib.Path, module: types.ModuleType) -> None:
    """Run the text that was hashed; the file may have changed since it was read."""
    try:
        exec(compile(text, str(file), "exec"), module.__dict__)
    except (BadInput, KeyboardInterrupt):
        raise
    except BaseException as error:  # whatever the file raises, SystemExit too
        raise BadInput(f"{OPTION} {file} cannot be imported ({reason_of(error)})") from error


def require_plugins(recorded: Sequence[PluginFile]) -> None:
    """Check that every plugin file in a configuration has been loaded, with the same text.

    Args:
      recorded: the plugin files in the configuration.

    Raises:
      BadInput: a file has not been loaded, or its text has changed; the message names the option
        to add to the command.
    """
    hashes = {plugin.sha256 for plugin in recorded}
    unrecorded = [plugin for plugin in LOADED.values() if plugin.sha256 not in hashes]
    for plugin in recorded:
        if plugin.sha256 in LOADED:
            continue
        if unrecorded:
            raise BadInput(
                f"the plugin {unrecorded[0].path} (sha256 {unrecorded[0].sha256[:12]}) "
                f"is not the one the run was made with, {plugin.path} "
                f"(sha256 {plugin.sha256[:12]}); accepted: a file of the same text"
            )
        raise BadInput(
            f"the run was made with the plugin {plugin.path}, which is code and is loaded from the "
            f"command line alone; accepted: with {OPTION} {plugin.path}"
        )
