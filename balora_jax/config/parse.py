"""The parser of yaml files and command-line options, with a one-sentence message for each error."""

import argparse
import contextlib
import dataclasses
import difflib
import functools
import inspect
import itertools
import pathlib
import re
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import docstring_parser
from jsonargparse import (
    ArgumentError,
    ArgumentParser,
    Namespace,
    set_loader,
    set_parsing_settings,
)

from balora_jax.config.adapter import parse_start
from balora_jax.config.addresses import is_address
from balora_jax.config.other_names import OTHER_NAMES
from balora_jax.config.paths import FILE_OR_FOLDER, FOLDER, check_path, check_run_folder
from balora_jax.config.plugins import LOADED, PluginFile, require_plugins
from balora_jax.config.regularizers import regularizers_config
from balora_jax.config.run import RunConfig
from balora_jax.config.yaml_files import OPTION as CONFIG_OPTION
from balora_jax.config.yaml_files import (
    UnreadableValue,
    check_text,
    option_names,
    read_value,
    read_yaml,
)
from balora_jax.errors import BadInput, reason_of, shown

# The folder of the embedded tiny world in version 0.1, which configurations of old runs name.
OLD_ASSETS = "balora_jax/tiny_world/assets"
ASSETS = "balora_jax/evaluation/tiny_world/assets"
# The parser reads values by its own yaml loader otherwise, which knows no bounds.
VALUES = "balora"
set_loader(VALUES, read_value, exceptions=(UnreadableValue,))
# The parser's names of types, in words.
TYPES = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "null": "null",
    "list": "a list, such as [a, b]",
    "list[str]": "a list of text",
    "list[float]": "a list of numbers",
    "dict": "a mapping of text to text",
    "dict[str, str]": "a mapping of text to text",
    "dict[str, float]": "a mapping of text to numbers",
    "list[dict[str, str]]": "a list of mappings",
    "list[str | dict[str, Any]]": "a list of texts and mappings",
    "list[Union[str, dict[str, Any]]]": "a list of texts and mappings",
}


# What `--help` says of the commands that take the options of a run.
DESCRIPTIONS = {
    "train": "Fine-tune a model. Regularizers of your own: --plugin FILE.py (repeatable).",
    "data": "Show a run's data as the model will see it; needs no output.dir and no number of "
    "updates.",
    "quickstart": "Fine-tune the tiny model that comes with the package, which gives the model, "
    "the data and output.dir; each option changes what it gives.",
}


def read_config(arguments: Sequence[str], command: str = "train") -> RunConfig:
    """Parse the arguments of `train` into a run's configuration.

    Args:
      arguments: options, and yaml files of them after --config.
      command: the command's name, for the help.

    Returns:
      The configuration, with the plugin files that were loaded.

    Raises:
      BadInput: an unknown key, a value of the wrong type or out of range, a file that is not there
        or is not yaml, a plugin file that the configuration records and that was not loaded.
    """
    files = {value: read_yaml(value) for value in config_files(arguments)}
    require_plugins(_recorded_plugins(files.values()))
    if any(map(is_address, files)):
        # `read_yaml` has checked the addresses.
        set_parsing_settings(config_read_mode_fsspec_enabled=True)
    classes = {"regularizers": regularizers_config()}
    parser = ArgumentParser(
        prog=f"balora {command}",
        description=DESCRIPTIONS.get(command, DESCRIPTIONS["train"]),
        exit_on_error=False,
        allow_abbrev=False,
        parser_mode=VALUES,
    )
    parser.add_argument(
        "--config", action="config", help="a yaml file of these options; later options override it"
    )
    add_options(parser, RunConfig, classes=classes)
    for file, options in files.items():
        _check_texts(file, options)
        _check_sections(file, options, parser, RunConfig, classes)
    with _naming_file(files, arguments):
        namespace = parse(parser, arguments)
        for options in files.values():
            _check_numbers(namespace, options)
        config = build(RunConfig, namespace, classes)
    check_paths(config)
    # Also those of files that were named otherwise than by --config FILE.
    require_plugins(config.plugin_files)
    config = dataclasses.replace(config, plugins=[vars(plugin) for plugin in LOADED.values()])
    return _with_moved_assets(config)


def read_data_config(arguments: Sequence[str], command: str = "data") -> RunConfig:
    """Parse the arguments of `data` or `plan`, which need no output and no number of updates.

    Args:
      arguments: as for `read_config`.
      command: as for `read_config`.

    Returns:
      The configuration; what is not given there is of no use.

    Raises:
      BadInput: as `read_config`.
    """
    given = {argument.partition("=")[0].removeprefix("--") for argument in arguments}
    for file in config_files(arguments):
        given |= option_names(read_yaml(file))
    unused = [] if "output.dir" in given else ["--output.dir=."]
    if not given & {"training.steps", "training.epochs"}:
        unused.append("--training.epochs=1")
    return read_config([*unused, *arguments], command)


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
    texts = _texts(section)
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


@functools.cache
def _texts(section: type) -> dict[str, str | None]:
    """The text below each field of a dataclass, which is read from its source."""
    # Also of the dataclasses that it inherits from, whose texts its own replace.
    return {
        param.arg_name: param.description
        for base in reversed(section.__mro__[:-1])
        for param in docstring_parser.parse_from_object(base).params
    }


# The record of plugin files is no option: a run writes it.
HIDDEN = frozenset({"plugins"})


def _default(field: dataclasses.Field) -> dict[str, Any]:
    if field.default is not dataclasses.MISSING:
        return {"default": field.default}
    if field.default_factory is not dataclasses.MISSING:
        return {"default": field.default_factory()}
    return {"required": True}


def build(
    section: type,
    namespace: Namespace,
    classes: Mapping[str, type] | None = None,
    prefix: str = "",
) -> Any:
    """Make a dataclass, and the dataclasses in it, of parsed options.

    Args:
      section: the dataclass.
      namespace: from `parse`.
      classes: as for `add_options`.
      prefix: as for `add_options`.

    Raises:
      BadInput: a value is out of range, or null where it must not be.
    """
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
            value = build(kind, value, prefix=f"{name}.")
        elif value is None and type(None) not in typing.get_args(kind):
            # The parser takes null for an option that is not given.
            words = _in_words(str(kind).replace("typing.", "").replace(" | ", ", "))
            raise BadInput(f"{prefix}{field.name} is null; accepted: {words}")
        values[field.name] = value
    return section(**values)


def config_files(arguments: Sequence[str]) -> list[str]:
    """List the values of --config among arguments.

    Args:
      arguments: the command line.
    """
    files = []
    for argument, following in itertools.pairwise([*arguments, ""]):
        name, equals, value = argument.partition("=")
        if name == CONFIG_OPTION:
            files.append(value if equals else following)
    return files


def _check_texts(name: str, value: Any) -> None:
    """Check the texts in a yaml file, which the parser may take for yaml themselves."""
    if isinstance(value, str):
        check_text(name, value)
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            _check_texts(name, inner)


def _check_sections(
    file: str,
    options: dict,
    parser: ArgumentParser,
    section: type,
    classes: Mapping[str, type] | None = None,
    prefix: str = "",
) -> None:
    """Check that every section of a yaml file is one, and no single value, list or nothing."""
    if CONFIG_OPTION.lstrip("-") in options:
        raise BadInput(
            f"{file} has the option config; accepted: {CONFIG_OPTION} FILE on the command line, "
            "once for each file"
        )
    types = typing.get_type_hints(section)
    # Those with a dot name an option of a section, which the parser looks for.
    unknown = next((key for key in options if key not in types and "." not in key), None)
    if unknown is not None:
        raise BadInput(f"{file}: {_unknown_key(prefix + unknown, parser)}")
    for field in dataclasses.fields(section):
        kind = (classes or {}).get(field.name, types[field.name])
        if field.name not in options or not dataclasses.is_dataclass(kind):
            continue
        value = options[field.name]
        name = f"{prefix}{field.name}"
        if not isinstance(value, dict):
            names = ", ".join(option.name for option in dataclasses.fields(kind))
            raise BadInput(f"{file}: {name} is {value!r:.100}; accepted: a section with {names}")
        _check_sections(file, value, parser, kind, prefix=f"{name}.")


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
        for file, options in reversed(files.items()):
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
    for source in config.data.source_names:
        check_path("data.train", source, kind=FILE_OR_FOLDER)
    for name in ("eval", "eval_ood", "predict"):
        value = getattr(config.data, name)
        sources = [value] if isinstance(value, str) else value or []
        for source in sources:
            if (name, source) != ("predict", "test"):
                check_path(f"data.{name}", source, kind=FILE_OR_FOLDER)
    check_run_folder("output.dir", config.output.dir)


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
    option = ""
    texts = {}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        is_option = name.startswith("--")
        option = name.removeprefix("--") if is_option else option
        if equals or not is_option:
            texts[option] = value if is_option else argument
            check_text(option, texts[option])
    try:
        namespace = parser.parse_args(_with_values(parser, arguments))
        _check_numbers(namespace, texts)
        return namespace
    except ArgumentError as error:
        raise BadInput(_one_sentence(str(error), parser)) from error
    # The parser lets through many types of errors of the values that it tries.
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(
            f"the options cannot be read ({reason_of(error)}); accepted: what --help lists"
        ) from error


def _check_numbers(namespace: Namespace, texts: Mapping[str, Any], prefix: str = "") -> None:
    """Check that no text with another meaning was read as a number: 8:30 as 510, 1_0 as 10."""
    for name, text in texts.items():
        if isinstance(text, dict):
            _check_numbers(namespace, text, f"{prefix}{name}.")
        value = namespace.get(f"{prefix}{name}")
        if isinstance(text, str) and isinstance(value, int | float) and set("_:") & set(text):
            raise BadInput(
                f"{prefix}{name} is {shown(text)}; accepted: a number in digits, such as 10 or 1e-4"
            )


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
    unknown = unknown or re.search(r"Option '([^']+)' is not accepted", text)
    if unknown:
        return _unknown_key(unknown[1], parser)
    unknown_in_section = re.search(r"Group '([\w.]+)' does not accept option '([^']+)'", text)
    if unknown_in_section:
        return _unknown_key(".".join(unknown_in_section.groups()), parser)
    spare = re.search(r"unrecognized arguments: (?:-- )?(\S+)", text)
    if spare:
        return (
            f"there is no argument {spare[1][:100]!r}; accepted: options such as --help, "
            "each with its value"
        )
    missing = re.search(r"arguments are required: ([\w., ]+)", text)
    if missing:
        return _missing(missing[1], parser)
    empty = re.search(r"argument (--[\w.]+): expected (?:an? )?(.+?) arguments?$", text)
    if empty:
        return f"{empty[1]} has no value; accepted: {empty[2]}"
    return _wrong_value(text, parser)


def _missing(names: str, parser: ArgumentParser) -> str:
    """The message for options that must be given."""
    if CONFIG_OPTION in parser.format_usage():
        return f"{names} must be given; accepted: on the command line or in a --config file"
    options = ", ".join(f"--{name}" for name in names.split(", "))
    return f"{options} must be given; accepted: {options} with a value"


def _unknown_key(key: str, parser: ArgumentParser) -> str:
    """The message for an option that does not exist, with the most similar ones that do."""
    defaults = dict(parser.get_defaults(skip_validation=True).items())
    names = [name for name in defaults if name != "config" and name not in HIDDEN]
    if key in HIDDEN:
        return f"{key} is a record that a run writes; accepted: --plugin FILE.py loads a plugin"
    similar = [name for name in names if name.startswith(f"{key}.")]
    similar = similar or [name for name in names if name.endswith(f".{key}")]
    if not similar and OTHER_NAMES.get(key) in names:
        similar = [OTHER_NAMES[key]]
    similar = similar or difflib.get_close_matches(key[:100], names, n=3, cutoff=0.6)
    if not similar:
        section = key.rpartition(".")[0]
        similar = [name for name in names if name.rpartition(".")[0] == section]
    hint = ""
    if key.startswith("regularizers."):
        hint = ", or a term that --plugin FILE.py or register_term has registered first"
    accepted = ", ".join(similar or names or ["--help"])
    return f"there is no option {key[:100]}; accepted: {accepted}{hint}"


def _wrong_value(text: str, parser: ArgumentParser) -> str:
    """The message for a value of the wrong type; the text itself if it is no such error."""
    one_type = r"Expected an? (?P<types>.+?)\. Got value:(?P<value>.*)"
    several_types = (
        r"Does not validate .*?Subtypes: \[(?P<types>.+?)\] Errors: .* Given value:(?P<value>.*)"
    )
    key = r'Parser key "(?P<name>.+?)"(?: element \d+)?: '
    match = re.fullmatch(key + one_type, text) or re.fullmatch(key + several_types, text)
    if match is None:
        other = re.match(key, text)
        if other is None:
            return f"{text[:300]}; accepted: what --help lists"
        reason = text[other.end() :][:200]
        return f"{other['name']} is no value that can be read ({reason}); accepted: a shorter one"
    name = match["name"]
    if name in HIDDEN:
        return _unknown_key(name, parser)
    nested = re.match(r" ?NestedArg\(key='(.*?)'", match["value"])
    if nested:
        return _unknown_key(f"{name}.{nested[1]}", parser)
    return f"{name} is {_shown(match['value'].strip())}; accepted: {_in_words(match['types'])}"


def _shown(value: str) -> str:
    """A value as yaml has it: null and true are no text."""
    words = {"None": "null", "True": "true", "False": "false"}
    shown = value if len(value) <= 200 else f"{value[:200]} ..."
    return words.get(value) or repr(shown)


def _in_words(types: str) -> str:
    """Describe types in words: list[str], int, null -> a list of text, a whole number or null."""
    plain = re.sub(r"<class '(\w+)'>", r"\1", types).replace("NoneType", "null")
    words = []
    for kind in re.findall(r"(?:[^,\[\]]|\[(?:[^\[\]]|\[[^\[\]]*\])*\])+", plain):
        kind = kind.strip()
        choices = re.findall(r"'([^']*)'", kind) if kind.startswith("Literal[") else None
        words += choices or [TYPES.get(kind, kind)]
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
