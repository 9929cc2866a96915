"""Pages of options, from the dataclasses that read them: each field becomes a `confval`.

The text of an option is the one that `--help` has. {confval}`training.steps` links to it from any
page, and a link to an option that does not exist ends the build.
"""

import dataclasses
import importlib
import inspect
import json
import re
import subprocess
import sys
import types
import typing
from collections.abc import Iterator
from typing import Any, ClassVar

import docstring_parser
from docutils import nodes
from docutils.parsers.rst import directives
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from balora_jax.config.parse import HIDDEN

WORDS = {
    bool: "true or false",
    float: "a number",
    int: "a whole number",
    str: "text",
    type(None): "null",
}
PLURALS = {float: "numbers", str: "texts", dict: "mappings"}
# What markdown would read as its own.
MARKUP = re.compile(r"([\\*_<>\[\]$|{}])")


@dataclasses.dataclass(frozen=True)
class Option:
    """An option, as its page shows it.

    Attributes:
      name: with its sections, such as `training.steps`, or as on the command line.
      kind: its values in words.
      default: as yaml has it; `required` if there is none.
      text: its description.
    """

    name: str
    kind: str
    default: str
    text: str


def options_of(section: type, prefix: str = "") -> Iterator[Option]:
    """List the options of a dataclass, without those of the dataclasses in it.

    Args:
      section: the dataclass.
      prefix: what the names of its options begin with.
    """
    hints = typing.get_type_hints(section)
    texts = field_texts(section)
    for field in dataclasses.fields(section):
        kind = hints[field.name]
        if not dataclasses.is_dataclass(kind) and field.name not in HIDDEN:
            yield Option(prefix + field.name, in_words(kind), default_of(field), texts[field.name])


def sections_of(section: type, prefix: str = "") -> Iterator[tuple[str, type]]:
    """List the dataclasses in a dataclass by the names of their sections, at any depth.

    Args:
      section: the dataclass.
      prefix: what the names begin with.
    """
    for name, kind in typing.get_type_hints(section).items():
        if dataclasses.is_dataclass(kind):
            yield prefix + name, kind
            yield from sections_of(kind, f"{prefix}{name}.")


def field_texts(section: type) -> dict[str, str]:
    """The text below each field of a dataclass, or of the dataclass that it inherits from."""
    texts: dict[str, str] = {field.name: "" for field in dataclasses.fields(section)}
    for base in reversed(section.__mro__[:-1]):
        for param in docstring_parser.parse_from_object(base).params:
            texts[param.arg_name] = " ".join((param.description or "").split())
    return texts


def in_words(kind: Any) -> str:
    """Describe a type: list[str] | int -> a list of texts, or a whole number."""
    origin = typing.get_origin(kind)
    inner = typing.get_args(kind)
    if origin is typing.Literal:
        return ", ".join(inner)
    if origin in (types.UnionType, typing.Union):
        return ", or ".join(in_words(part) for part in inner)
    if origin is list:
        items = typing.get_args(inner[0]) or inner
        return f"a list of {' and '.join(map(plural, items))}"
    if origin is dict:
        return f"a mapping of text to {'numbers' if inner[1] is float else 'text'}"
    return WORDS[kind]


def plural(kind: Any) -> str:
    """Describe the items of a list: str -> texts."""
    return PLURALS[typing.get_origin(kind) or kind]


def default_of(field: dataclasses.Field) -> str:
    """The default of a field, as yaml has it."""
    if field.default is not dataclasses.MISSING:
        value = field.default
    elif field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    else:
        return "required"
    return value if isinstance(value, str) and value else json.dumps(value)


def as_markdown(option: Option) -> str:
    """An option as a `confval`."""
    # Code in backticks stays as it is.
    parts = option.text.split("`")
    parts[::2] = [MARKUP.sub(r"\\\1", part) for part in parts[::2]]
    return (
        f":::{{confval}} {option.name}\n:type: {option.kind}\n"
        f":default: `` {option.default} ``\n\n{'`'.join(parts)}\n:::\n"
    )


class Options(SphinxDirective):
    """The options of a dataclass: {options} balora_jax.config.RunConfig.

    A dataclass in it becomes a section of the page. With `:command: predict` the options are those
    of a command, `predict --data`, in one list.
    """

    required_arguments = 1
    option_spec: ClassVar[dict] = {"command": directives.unchanged}

    def run(self) -> list[nodes.Node]:
        """Make the nodes."""
        module, _, name = self.arguments[0].rpartition(".")
        section = getattr(importlib.import_module(module), name)
        self.env.note_dependency(inspect.getsourcefile(section))
        command = self.options.get("command")
        prefix = f"{command} --" if command else ""
        made = self._parsed(options_of(section, prefix))
        for title, kind in sections_of(section):
            self.env.note_dependency(inspect.getsourcefile(kind))
            if command:
                made += self._parsed(options_of(kind, f"{prefix}{title}."))
            else:
                made.append(self._section(title, kind))
        return made

    def _section(self, title: str, kind: type) -> nodes.section:
        node = nodes.section(ids=[f"section-{title.replace('.', '-')}"], names=[title])
        node += nodes.title("", "", nodes.literal(title, title))
        node += nodes.paragraph("", inspect.getdoc(kind).splitlines()[0])
        self.state.document.note_implicit_target(node, node)
        node.extend(self._parsed(options_of(kind, f"{title}.")))
        return node

    def _parsed(self, options: Iterator[Option]) -> list[nodes.Node]:
        place = nodes.container()
        text = "\n".join(as_markdown(option) for option in options)
        self.state.nested_parse(StringList(text.splitlines(), ""), self.content_offset, place)
        return place.children


class Help(SphinxDirective):
    """The help of a command, as it prints it: {help} export."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Make the node."""
        command = [sys.executable, "-m", "balora_jax", self.arguments[0], "--help"]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return [nodes.literal_block(text, text, language="text")]


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the directives."""
    app.add_directive("options", Options)
    app.add_directive("help", Help)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
