"""From yaml files and command-line arguments to configurations, with one sentence for what does not fit."""

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


# Where the embedded tiny world was in version 0.1; configurations of runs from then name it so.
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

    They are looked up before the arguments are parsed: without its plugin a term is an unknown key.
    A file that cannot be read is left to the parser, whose sentence says so.
    """
    recorded: list[PluginFile] = []
    for option, value in itertools.pairwise([*arguments, ""]):
        name, _, joined = option.partition("=")
        path = pathlib.Path(joined or value).expanduser()
        if name != "--config" or not path.is_file():
            continue
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError):
            continue
        plugins = content.get("plugins") if isinstance(content, dict) else None
        for plugin in plugins if isinstance(plugins, list) else []:
            if isinstance(plugin, dict) and {"path", "sha256"} <= set(plugin):
                recorded.append(PluginFile(str(plugin["path"]), str(plugin["sha256"])))
    return recorded


def _with_moved_assets(config: RunConfig) -> RunConfig:
    """Return the configuration with the tiny world's files where they are now."""

    def moved(value: Any) -> Any:
        return value.replace(OLD_ASSETS, ASSETS) if isinstance(value, str) else value

    model = dataclasses.replace(config.model, source=moved(config.model.source))
    data = dataclasses.replace(
        config.data, train=moved(config.data.train), eval=moved(config.data.eval)
    )
    return dataclasses.replace(config, model=model, data=data)


def parse(parser: ArgumentParser, arguments: Sequence[str]) -> Namespace:
    """What the arguments say; BadInput where they say something else than the parser knows."""
    try:
        return parser.instantiate(parser.parse_args(_with_values(parser, arguments)))
    except ArgumentError as error:
        raise BadInput(_one_sentence(str(error), parser)) from error


def split(arguments: Sequence[str], names: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments of the options of these names, each with what follows it up to the next option; and the rest."""
    parts: tuple[list[str], list[str]] = ([], [])
    side = 1
    for argument in arguments:
        if argument.startswith("--"):
            side = 0 if argument[2:].partition("=")[0] in names else 1
        parts[side].append(argument)
    return parts


def _with_values(parser: ArgumentParser, arguments: Sequence[str]) -> list[str]:
    """The arguments with `true` after every yes-or-no option that stands alone (--output.resume)."""
    yes_or_no = {
        f"--{name}"
        for name, value in parser.get_defaults(skip_validation=True).items()
        if isinstance(value, bool)
    }
    filled = []
    for argument, after in itertools.pairwise([*arguments, "--"]):
        filled += (
            [argument, "true"] if argument in yes_or_no and after.startswith("--") else [argument]
        )
    return filled


def _one_sentence(message: str, parser: ArgumentParser) -> str:
    """The parser's complaint in a line; an unknown key with the nearest that exist."""
    text = re.sub(r"\s+", " ", message).replace("typing.", "").strip()
    unknown = re.search(r"unrecognized arguments: --([\w.]+)", text)
    inside = re.search(r"Group '([\w.]+)' does not accept option '([\w.]+)'", text)
    key = unknown[1] if unknown else ".".join(inside.groups()) if inside else None
    if key is None:
        return _wrong_value(text)
    keys = [
        name for name in dict(parser.get_defaults(skip_validation=True).items()) if name != "config"
    ]
    beside = [name for name in keys if name.rpartition(".")[0] == key.rpartition(".")[0]]
    near = difflib.get_close_matches(key, keys, n=3, cutoff=0.6) or beside or keys
    hint = ", or a term that --plugin FILE.py registers" if key.startswith("regularizers.") else ""
    return f"there is no option {key}; accepted: {', '.join(near)}{hint}"


def _wrong_value(text: str) -> str:
    """The parser's complaint of a value's type, where it is one: of one type, or of several."""
    one = r"Expected an? (?P<kind>.+?)\. Got value: (?P<value>.*)"
    several = (
        r"Does not validate .*?Subtypes: \[(?P<kind>.+?)\] Errors: .* Given value: (?P<value>.*)"
    )
    wrong = re.fullmatch(rf'Parser key "(?P<name>.+?)"(?: element \d+)?: {one}', text)
    wrong = wrong or re.fullmatch(f'Parser key "(?P<name>.+?)": {several}', text)
    if wrong is None:
        return text
    kinds = re.sub(r"<class '(\w+)'>", r"\1", wrong["kind"]).replace("NoneType", "null")
    return f"{wrong['name']} is {wrong['value']!r}; accepted: {kinds}"
