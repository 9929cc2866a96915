"""Yaml files of options: one mapping in UTF-8, of bounded size, with no alias and no key twice."""

import re
from typing import Any, ClassVar

import yaml

from balora_jax.config.addresses import check_address, is_address
from balora_jax.config.paths import FILE, check_path
from balora_jax.errors import BadInput, reason_of

OPTION = "--config"
LARGEST = 2**20
DEEPEST = 20
ACCEPTED = "a yaml file of options, such as configs/quickstart.yaml"
FLOAT = "tag:yaml.org,2002:float"
INT = "tag:yaml.org,2002:int"
DATE = "tag:yaml.org,2002:timestamp"
# Yaml 1.1 also takes 8:30 for 510, 1_0 for 10 and 010 for 8.
INTS = re.compile("[-+]?(?:0|[1-9][0-9]*)")
# Yaml 1.1 takes 1e-4 for text.
FLOATS = re.compile(
    r"[-+]?(?:[0-9]+\.[0-9]*|\.?[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)


class UnreadableValue(ValueError):
    """Text that is no yaml within the bounds.

    Attributes:
      line: the line that is at fault, from 1; None for the whole.
      reason: the rest of a sentence that begins with the text's name.
    """

    def __init__(self, line: int | None, reason: str) -> None:
        super().__init__(line, reason)
        self.line = line
        self.reason = reason


class UnboundedValue(UnreadableValue):
    """Yaml that a few lines expand without end, or that is nested too deep."""


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """A loader that reads 1e-4 as a number, and dates and 8:30 as text."""

    yaml_implicit_resolvers: ClassVar[dict[str, list[tuple[str, re.Pattern]]]] = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in (FLOAT, INT, DATE)]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver(INT, re.compile(f"(?:{INTS.pattern})$"), list("-+0123456789"))
_Loader.add_implicit_resolver(FLOAT, re.compile(f"(?:{FLOATS.pattern})$"), list("-+0123456789."))


def read_yaml(value: str) -> dict:
    """Read a yaml file of options.

    Args:
      value: the path or the address in a bucket, as --config names it.

    Returns:
      The options, nested by section.

    Raises:
      BadInput: it is no file, too large, not UTF-8, not yaml, no mapping, too deep, or it has an
        alias or a key twice. The message names the file, and the line where there is one.
    """
    content = _in_bucket(value) if is_address(value) else _on_this_machine(value)
    path = value
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(
            f"{path} is not text in UTF-8 ({error.reason} at byte {error.start}); "
            f"accepted: {ACCEPTED}"
        ) from error
    if len(content) > LARGEST:
        raise BadInput(f"{path} is larger than {LARGEST} bytes; accepted: {ACCEPTED}")
    try:
        options = _load(text)
    except UnreadableValue as error:
        line = "" if error.line is None else f", line {error.line}"
        raise BadInput(
            f"{path}{line} {error.reason}; accepted: {ACCEPTED}, with every value written out"
        ) from error
    if not isinstance(options, dict):
        found = {type(None): "nothing", list: "a list"}.get(type(options), "a single value")
        raise BadInput(f"{path} holds {found}; accepted: {ACCEPTED}")
    return options


def _on_this_machine(value: str) -> bytes:
    path = check_path(OPTION, value, kind=FILE, must_exist=True)
    try:
        with path.open("rb") as file:
            return file.read(LARGEST + 1)
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror}); accepted: {ACCEPTED}") from error


def _in_bucket(value: str) -> bytes:
    check_address(OPTION, value, "a file")
    # Few commands need it, and it takes a tenth of a second.
    import fsspec

    try:
        with fsspec.open(value, "rb") as file:
            return file.read(LARGEST + 1)
    except Exception as error:  # each bucket's library raises its own
        raise BadInput(
            f"{OPTION} {value[:200]} cannot be read ({reason_of(error)}); accepted: {ACCEPTED}"
        ) from error


def read_value(text: str) -> Any:
    """Read the value of an option, or all options in the text of a file.

    Args:
      text: as on the command line.

    Returns:
      What the yaml describes. {instruction} is a text with a name in braces, and no mapping.

    Raises:
      UnreadableValue: the text is no yaml, or not within the bounds of `read_yaml`.
    """
    if not text.strip():
        return text
    value = _load(text)
    is_text = isinstance(value, dict) and value and all(inner is None for inner in value.values())
    return text if is_text and text.lstrip().startswith("{") else value


def check_text(option: str, text: str) -> None:
    """Check that a text can be tried as yaml, as the parser does with the values of numbers.

    Args:
      option: the option's name, for the message.
      text: its value, which need not be yaml.

    Raises:
      BadInput: as yaml it has aliases or is nested too deep.
    """
    try:
        read_value(text)
    except UnboundedValue as error:
        raise BadInput(
            f"{option} is {text[:200]!r}, which as yaml {error.reason}; accepted: values without "
            f"aliases, nested at most {DEEPEST} deep"
        ) from error
    except UnreadableValue:
        # A text that is no yaml stays one.
        return


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


def _load(text: str) -> Any:
    """Read yaml: first its events, then its nodes, then its values."""
    try:
        _check_events(text)
        _check_keys(yaml.compose(text, Loader=_Loader))
        return yaml.load(text, Loader=_Loader)
    except UnreadableValue:
        raise
    # A number of too many digits, or a tag that is no such value, is an error of many types.
    except Exception as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or error
        line = None if mark is None else mark.line + 1
        raise UnreadableValue(line, f"is no yaml ({problem!s:.200})") from error


def _check_events(text: str) -> None:
    """Check depth and aliases on the stream of events, before any structure is made of it."""
    depth = 0
    anchors = set()
    for event in yaml.parse(text, Loader=_Loader):
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            kind = UnboundedValue if event.anchor in anchors else UnreadableValue
            raise kind(line, f"has an alias (*{event.anchor:.100})")
        anchors.add(getattr(event, "anchor", None))
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > DEEPEST:
            raise UnboundedValue(line, "is nested too deep")


def _check_keys(node: yaml.Node | None) -> None:
    """Check that all keys are texts, and that no mapping has one twice."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _check_keys(item)
    if not isinstance(node, yaml.MappingNode):
        return
    seen = set()
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode) or key.tag != "tag:yaml.org,2002:str":
            raise UnreadableValue(line, f"has the key {key.value!r:.100}, which is no text")
        if key.value in seen:
            raise UnreadableValue(line, f"has the key {key.value[:100]} a second time")
        seen.add(key.value)
        _check_keys(value)
