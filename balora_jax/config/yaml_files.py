"""Yaml files of options: one mapping in UTF-8, of bounded size, with no alias and no key twice."""

import pathlib

import yaml

from balora_jax.config.paths import FILE, check_path
from balora_jax.errors import BadInput, reason_of

OPTION = "--config"
LARGEST = 2**20
DEEPEST = 20
ACCEPTED = "a yaml file of options, such as configs/quickstart.yaml"


def read_yaml(value: str) -> dict:
    """Read a yaml file of options.

    Args:
      value: the path, as --config names it.

    Returns:
      The options, nested by section.

    Raises:
      BadInput: it is no file, too large, not UTF-8, not yaml, no mapping, too deep, or it has an
        alias or a key twice. The message names the file, and the line where there is one.
    """
    path = check_path(OPTION, value, kind=FILE, must_exist=True)
    with path.open("rb") as file:
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise BadInput(f"{path} is larger than {LARGEST} bytes; accepted: {ACCEPTED}")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(
            f"{path} is not text in UTF-8 ({error.reason} at byte {error.start}); "
            f"accepted: {ACCEPTED}"
        ) from error
    try:
        _check_events(path, text)
        _check_keys(path, yaml.compose(text, Loader=yaml.SafeLoader))
        options = yaml.safe_load(text)
    # A date that does not exist, for example, is a ValueError.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"{path} is no yaml ({reason_of(error)}); accepted: {ACCEPTED}") from error
    if not isinstance(options, dict):
        found = {type(None): "nothing", list: "a list"}.get(type(options), "a single value")
        raise BadInput(f"{path} holds {found}; accepted: {ACCEPTED}")
    strange = next((key for key in options if not isinstance(key, str)), None)
    if strange is not None:
        raise BadInput(f"{path} has the key {strange!r:.100}; accepted: {ACCEPTED}")
    return options


def option_names(options: dict, prefix: str = "") -> set[str]:
    """List the options that a file sets.

    option_names({"model": {"source": "x"}})  ->  {"model", "model.source"}

    Args:
      options: from `read_yaml`.
      prefix: what the names begin with.
    """
    names = set()
    for key, value in options.items():
        name = f"{prefix}{key}"
        names.add(name)
        if isinstance(value, dict):
            names |= option_names(value, f"{name}.")
    return names


def _check_events(path: pathlib.Path, text: str) -> None:
    """Check depth and aliases on the stream of events, before any structure is made of it."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            line = event.start_mark.line + 1
            raise BadInput(
                f"{path}, line {line} has an alias (*{event.anchor}); accepted: {ACCEPTED}, "
                "with each value written out"
            )
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > DEEPEST:
            line = event.start_mark.line + 1
            raise BadInput(f"{path}, line {line} is nested too deep; accepted: {ACCEPTED}")


def _check_keys(path: pathlib.Path, node: yaml.Node | None) -> None:
    """Check that no mapping has a key twice."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _check_keys(path, item)
    if not isinstance(node, yaml.MappingNode):
        return
    seen = set()
    for key, value in node.value:
        if isinstance(key, yaml.ScalarNode):
            if key.value in seen:
                line = key.start_mark.line + 1
                raise BadInput(
                    f"{path}, line {line} has the key {key.value[:100]} a second time; "
                    "accepted: each key once"
                )
            seen.add(key.value)
        _check_keys(path, value)
