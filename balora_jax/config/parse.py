"""The parser of yaml files and command-line options, with a one-sentence message for each error."""

import argparse
import contextlib
import dataclasses
import difflib
import inspect
import itertools
import pathlib
import re
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import docstring_parser
from jsonargparse import ArgumentError, ArgumentParser, Namespace

from balora_jax.config.adapter import parse_start
from balora_jax.config.paths import FILE, FOLDER, check_output, check_path
from balora_jax.config.plugins import LOADED, PluginFile, require_plugins
from balora_jax.config.regularizers import regularizers_config
from balora_jax.config.run import RunConfig
from balora_jax.config.yaml_files import OPTION as CONFIG_OPTION
from balora_jax.config.yaml_files import option_names, read_yaml
from balora_jax.errors import BadInput, reason_of

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
    files = {value: read_yaml(value) for value in _config_files(arguments)}
    require_plugins(_recorded_plugins(files.values()))
    classes = {"regularizers": regularizers_config()}
    for file, options in files.items():
        _check_sections(file, options, RunConfig, classes)
    parser = ArgumentParser(
        prog="balora train",
        description="Fine-tune a model. Regularizers of your own: --plugin FILE.py (repeatable).",
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", action="config", help="a yaml file of these options; later options override it"
    )
    add_options(parser, RunConfig, classes=classes)
    with _naming_file(files, arguments):
        namespace = parse(parser, arguments)
        config = _build(RunConfig, namespace, classes)
    check_paths(config)
    # Also those of files that were named otherwise than by --config FILE.
    require_plugins(config.plugin_files)
    config = dataclasses.replace(config, plugins=[vars(plugin) for plugin in LOADED.values()])
    return _with_moved_assets(config)


def add_options(
    parser: ArgumentParser,
    section: type,
    prefix: str = "",
    classes: Mapping[str, type] | None = None,
) -> None:
    """Add an option for every field of a dataclass, and of the dataclasses in it.

    A section is no option itself: a parser that is given a class would import what a yaml file
    calls its class_path.

    Args:
      parser: the options are added here; the text below a field is its help.
      section: the dataclass.
      prefix: what the options' names begin with, such as `model.`.
      classes: dataclasses in place of those that fields have, by the field's name.
    """
    texts = {
        param.arg_name: param.description
        for param in docstring_parser.parse_from_object(section).params
    }
    title = prefix.rstrip(".") or "options"
    group = parser.add_argument_group(f"{title}: {inspect.getdoc(section).splitlines()[0]}")
    types = typing.get_type_hints(section)
    for field in dataclasses.fields(section):
        kind = (classes or {}).get(field.name, types[field.name])
        name = f"{prefix}{field.name}"
        if dataclasses.is_dataclass(kind):
            add_options(parser, kind, f"{name}.")
        elif field.name in HIDDEN:
            parser.add_argument(f"--{name}", type=kind, default=[], help=argparse.SUPPRESS)
        else:
            text = " ".join((texts.get(field.name) or "").split())
            group.add_argument(f"--{name}", type=kind, help=text, **_default(field))


# The record of plugin files is no option: a run writes it.
HIDDEN = frozenset({"plugins"})


def _default(field: dataclasses.Field) -> dict[str, Any]:
    if field.default is not dataclasses.MISSING:
        return {"default": field.default}
    if field.default_factory is not dataclasses.MISSING:
        return {"default": field.default_factory()}
    return {"required": True}


def _build(
    section: type,
    namespace: Namespace,
    classes: Mapping[str, type] | None = None,
    prefix: str = "",
) -> Any:
    """Make a dataclass, and the dataclasses in it, of parsed options."""
    types = typing.get_type_hints(section)
    values = {}
    for field in dataclasses.fields(section):
        kind = (classes or {}).get(field.name, types[field.name])
        value = namespace[field.name]
        if dataclasses.is_dataclass(kind):
            name = f"{prefix}{field.name}"
            if not isinstance(value, Namespace):
                options = ", ".join(option.name for option in dataclasses.fields(kind))
                raise BadInput(f"{name} is {value!r}; accepted: a section with {options}")
            value = _build(kind, value, prefix=f"{name}.")
        values[field.name] = value
    return section(**values)


def _config_files(arguments: Sequence[str]) -> list[str]:
    """The values of --config among the arguments."""
    files = []
    for argument, following in itertools.pairwise([*arguments, ""]):
        name, equals, value = argument.partition("=")
        if name == CONFIG_OPTION:
            files.append(value if equals else following)
    return files


def _check_sections(
    file: str,
    options: dict,
    section: type,
    classes: Mapping[str, type] | None = None,
    prefix: str = "",
) -> None:
    """Check that every section of a yaml file is one, and no single value, list or nothing."""
    types = typing.get_type_hints(section)
    for field in dataclasses.fields(section):
        kind = (classes or {}).get(field.name, types[field.name])
        if field.name not in options or not dataclasses.is_dataclass(kind):
            continue
        value = options[field.name]
        name = f"{prefix}{field.name}"
        if not isinstance(value, dict):
            names = ", ".join(option.name for option in dataclasses.fields(kind))
            raise BadInput(f"{file}: {name} is {value!r:.100}; accepted: a section with {names}")
        _check_sections(file, value, kind, prefix=f"{name}.")


@contextlib.contextmanager
def _naming_file(files: Mapping[str, dict], arguments: Sequence[str]) -> Iterator[None]:
    """Begin the message on an option with the yaml file that sets it, unless the command does."""
    try:
        yield
    except BadInput as error:
        sentence = str(error)
        named = re.match(r"(?:there is no option )?([\w.]+)", sentence)
        option = named[1] if named else ""
        in_command = any(argument.partition("=")[0] == f"--{option}" for argument in arguments)
        for file, options in files.items():
            if option in option_names(options) and not in_command:
                raise BadInput(f"{file}: {sentence}") from error
        raise


def check_paths(config: RunConfig) -> None:
    """Check every path of a configuration, before any of them is read or written.

    Args:
      config: the configuration.

    Raises:
      BadInput: a path cannot be one, or is of the wrong kind.
    """
    check_path("model.source", config.model.source, kind=FOLDER)
    if config.model.tokenizer is not None:
        check_path("model.tokenizer", config.model.tokenizer, kind=FOLDER)
    if config.adapter.init is not None and parse_start(config.adapter.init) is None:
        check_path("adapter.init", config.adapter.init, kind=FOLDER)
    for name in ("train", "eval", "eval_ood", "predict"):
        value = getattr(config.data, name)
        sources = [value] if isinstance(value, str) else value or []
        for source in sources:
            check_path(f"data.{name}", source, kind=FILE)
    check_output("output.dir", config.output.dir)


def _recorded_plugins(files: Iterable[dict]) -> list[PluginFile]:
    """The plugin files that yaml files record.

    They are required before the arguments are parsed, because a registered term is an unknown key
    until its plugin is loaded.
    """
    recorded: list[PluginFile] = []
    for options in files:
        plugins = options.get("plugins")
        if not isinstance(plugins, list):
            continue
        for plugin in plugins:
            if isinstance(plugin, dict) and {"path", "sha256"} <= set(plugin):
                recorded.append(PluginFile(str(plugin["path"]), str(plugin["sha256"])))
    return recorded


def _with_moved_assets(config: RunConfig) -> RunConfig:
    """Return the configuration with the tiny world's files where they are now, if they moved."""

    def current(path: Any) -> Any:
        if not isinstance(path, str) or OLD_ASSETS not in path:
            return path
        moved = path.replace(OLD_ASSETS, ASSETS)
        gone = not pathlib.Path(path).exists()
        return moved if gone and pathlib.Path(moved).exists() else path

    model = dataclasses.replace(
        config.model,
        source=current(config.model.source),
        tokenizer=current(config.model.tokenizer),
    )
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
      The options by name, those of a section in a namespace of its own.

    Raises:
      BadInput: an option does not exist, or its value does not fit.
    """
    try:
        return parser.parse_args(_with_values(parser, arguments))
    except (UnicodeDecodeError, RecursionError) as error:
        raise BadInput(f"a file of options is no yaml in UTF-8 ({reason_of(error)})") from error
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
    unknown = unknown or re.search(r"Option '([\w.]+)' is not accepted", text)
    if unknown:
        return _unknown_key(unknown[1], parser)
    unknown_in_section = re.search(r"Group '([\w.]+)' does not accept option '([\w.]+)'", text)
    if unknown_in_section:
        return _unknown_key(".".join(unknown_in_section.groups()), parser)
    missing = re.search(r"arguments are required: ([\w., ]+)", text)
    if missing:
        return f"{missing[1]} must be given; accepted: on the command line or in a --config file"
    return _wrong_value(text, parser)


def _unknown_key(key: str, parser: ArgumentParser) -> str:
    """The message for an option that does not exist, with the most similar ones that do."""
    defaults = dict(parser.get_defaults(skip_validation=True).items())
    names = [name for name in defaults if name != "config"]
    if key in HIDDEN:
        return f"{key} is a record that a run writes; accepted: --plugin FILE.py loads a plugin"
    similar = [name for name in names if name.startswith(f"{key}.")]
    similar = similar or difflib.get_close_matches(key, names, n=3, cutoff=0.6)
    if not similar:
        section = key.rpartition(".")[0]
        similar = [name for name in names if name.rpartition(".")[0] == section]
    hint = ""
    if key.startswith("regularizers."):
        hint = ", or a term that --plugin FILE.py or register_term has registered first"
    return f"there is no option {key}; accepted: {', '.join(similar or names)}{hint}"


def _wrong_value(text: str, parser: ArgumentParser) -> str:
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
    if match["name"] in HIDDEN:
        return _unknown_key(match["name"], parser)
    types = re.sub(r"Literal\[([^\]]*)\]", r"\1", types)
    return f"{match['name']} is {match['value'][:200]!r}; accepted: {types}"
