"""The parser of yaml files and command-line options, with a one-sentence message for each error."""

import dataclasses
import difflib
import itertools
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace, set_parsing_settings

from balora_jax.config.plugins import LOADED, PluginFile, require_plugins
from balora_jax.config.regularizers import regularizers_config
from balora_jax.config.run import RunConfig
from balora_jax.errors import BadInput

set_parsing_settings(docstring_parse_attribute_docstrings=True)


# The folder of the embedded tiny world in version 0.1, which configurations of old runs name.
OLD_ASSETS = "balora_jax/tiny_world/assets"
ASSETS = "balora_jax/evaluation/tiny_world/assets"


def read_config(arguments: Sequence[str]) -> RunConfig:
    """Parse the arguments of `train` into a run's configuration.

    Args:
      arguments: options, and yaml files of them after --config.

    Returns:
      The configuration, with the plugin files that were loaded.

    Raises:
      BadInput: an unknown key, a value of the wrong type or out of range, a file that is not there
        or is not yaml, a plugin file that the configuration records and that was not loaded.
    """
    require_plugins(_recorded_plugins(arguments))
    parser = ArgumentParser(
        prog="balora train",
        description="Fine-tune a model. Regularizers of your own: --plugin FILE.py (repeatable).",
        exit_on_error=False,
    )
    parser.add_argument(
        "--config", action="config", help="a yaml file of these options; later options override it"
    )
    parser.add_class_arguments(RunConfig, skip={"regularizers"})
    parser.add_class_arguments(regularizers_config(), "regularizers")
    sections = vars(parse(parser, arguments))
    config = RunConfig(**{name: part for name, part in sections.items() if name != "config"})
    return _with_moved_assets(dataclasses.replace(config, plugins=list(LOADED.values())))


def _recorded_plugins(arguments: Sequence[str]) -> list[PluginFile]:
    """The plugin files that the yaml files among the arguments record.

    They are read before the arguments are parsed, because a registered term is an unknown key
    until its plugin is loaded. A file that cannot be read is skipped: the parser reports it.
    """
    recorded: list[PluginFile] = []
    for argument, following in itertools.pairwise([*arguments, ""]):
        name, _, value = argument.partition("=")
        path = pathlib.Path(value or following).expanduser()
        if name != "--config" or not path.is_file():
            continue
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError):
            continue
        plugins = content.get("plugins") if isinstance(content, dict) else None
        if not isinstance(plugins, list):
            continue
        for plugin in plugins:
            if isinstance(plugin, dict) and {"path", "sha256"} <= set(plugin):
                recorded.append(PluginFile(str(plugin["path"]), str(plugin["sha256"])))
    return recorded


def _with_moved_assets(config: RunConfig) -> RunConfig:
    """Return the configuration with the tiny world's files where they are now."""

    def current(path: Any) -> Any:
        return path.replace(OLD_ASSETS, ASSETS) if isinstance(path, str) else path

    model = dataclasses.replace(config.model, source=current(config.model.source))
    data = dataclasses.replace(
        config.data, train=current(config.data.train), eval=current(config.data.eval)
    )
    return dataclasses.replace(config, model=model, data=data)


def parse(parser: ArgumentParser, arguments: Sequence[str]) -> Namespace:
    """Parse arguments.

    Args:
      parser: the options; it must not exit on an error.
      arguments: the command line, without the command's name.

    Returns:
      The options by name, with dataclasses in place of their sections.

    Raises:
      BadInput: an option does not exist, or its value does not fit.
    """
    try:
        return parser.instantiate(parser.parse_args(_with_values(parser, arguments)))
    except ArgumentError as error:
        raise BadInput(_one_sentence(str(error), parser)) from error


def split(arguments: Sequence[str], names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split arguments into those of some options and the rest.

        split(["--a", "1", "2", "--b=3"], ["a"])  ->  ["--a", "1", "2"], ["--b=3"]

    Args:
      arguments: the command line.
      names: the names of the options.

    Returns:
      The named options, each with the values that follow it, and the other arguments.
    """
    named: list[str] = []
    rest: list[str] = []
    part = rest
    for argument in arguments:
        if argument.startswith("--"):
            name = argument[2:].partition("=")[0]
            part = named if name in names else rest
        part.append(argument)
    return named, rest


def _with_values(parser: ArgumentParser, arguments: Sequence[str]) -> list[str]:
    """Add `true` after every boolean option that has no value, such as --output.resume."""
    booleans = {
        f"--{name}"
        for name, value in parser.get_defaults(skip_validation=True).items()
        if isinstance(value, bool)
    }
    completed = []
    for argument, following in itertools.pairwise([*arguments, "--"]):
        completed.append(argument)
        if argument in booleans and following.startswith("--"):
            completed.append("true")
    return completed


def _one_sentence(message: str, parser: ArgumentParser) -> str:
    """Turn the parser's error message into one sentence."""
    text = re.sub(r"\s+", " ", message).replace("typing.", "").strip()
    unknown = re.search(r"unrecognized arguments: --([\w.]+)", text)
    if unknown:
        return _unknown_key(unknown[1], parser)
    unknown_in_section = re.search(r"Group '([\w.]+)' does not accept option '([\w.]+)'", text)
    if unknown_in_section:
        return _unknown_key(".".join(unknown_in_section.groups()), parser)
    return _wrong_value(text)


def _unknown_key(key: str, parser: ArgumentParser) -> str:
    """The message for an option that does not exist, with the most similar ones that do."""
    defaults = dict(parser.get_defaults(skip_validation=True).items())
    names = [name for name in defaults if name != "config"]
    similar = difflib.get_close_matches(key, names, n=3, cutoff=0.6)
    if not similar:
        section = key.rpartition(".")[0]
        similar = [name for name in names if name.rpartition(".")[0] == section]
    hint = ", or a term that --plugin FILE.py registers" if key.startswith("regularizers.") else ""
    return f"there is no option {key}; accepted: {', '.join(similar or names)}{hint}"


def _wrong_value(text: str) -> str:
    """The message for a value of the wrong type; the text itself if it is no such error."""
    one_type = r"Expected an? (?P<types>.+?)\. Got value: (?P<value>.*)"
    several_types = (
        r"Does not validate .*?Subtypes: \[(?P<types>.+?)\] Errors: .* Given value: (?P<value>.*)"
    )
    match = re.fullmatch(rf'Parser key "(?P<name>.+?)"(?: element \d+)?: {one_type}', text)
    if match is None:
        match = re.fullmatch(f'Parser key "(?P<name>.+?)": {several_types}', text)
    if match is None:
        return text
    types = re.sub(r"<class '(\w+)'>", r"\1", match["types"]).replace("NoneType", "null")
    return f"{match['name']} is {match['value']!r}; accepted: {types}"
