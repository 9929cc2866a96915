"""Templates of the user's own: sentences with alternatives, which expand to twin sentences.

    The {nurse|doctor} said that {she|he} would come.

has the slots `nurse|doctor` and `she|he`, and expands to four sentences. Sentences that differ in
one slot alone are twins. A slot may have a name, and slots of one name change together:

    {who: Ada|Bob} said that {who: she|he} would come.

expands to two sentences. A name alone stands for a list of the file, here with the line before:

    city = Oslo | Rome | Lima
    The weather in {city} is {good|bad}.

In a text file each line is a template or a list; empty lines and lines that begin with # are
skipped. A yaml file has a list `templates` and may have a mapping `lists` of names to lists.
"""

import itertools
import json
import math
import pathlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import yaml

from balora_jax.errors import BadInput, listed, reason_of, shown
from balora_jax.evaluation.bias.input_files import parse_mapping, read_text

OPTION = "--templates"
# Sentences of a file, all alternatives combined.
MOST_SENTENCES = 10_000
# Of a slot or a list: the next token's distributions after all of them are in memory at once.
MOST_ALTERNATIVES = 256
# Characters of a template, or of an entry of a list.
LONGEST = 4000
NAME = re.compile(r"[A-Za-z_]\w{0,63}")
LIST_LINE = re.compile(r"\s*([A-Za-z_]\w{0,63})\s*=([^{}]*\|[^{}]*)")
LINE_END = re.compile("\r\n|\r|\n")
YAML_SUFFIXES = (".yaml", ".yml", ".json")
ACCEPTED = (
    "a text file of templates such as The {nurse|doctor} said that {she|he} would come, one a line"
)
ACCEPTED_YAML = "a yaml file with a list `templates`, and maybe a mapping `lists` of names to lists"


@dataclass(frozen=True)
class Slot:
    """A place of a template.

    Attributes:
      name: slots of one name change together.
      alternatives: the texts that may stand there, at least two.
    """

    name: str
    alternatives: tuple[str, ...]


@dataclass(frozen=True)
class Template:
    """A sentence with slots.

    Attributes:
      number: its place among the templates, from 1.
      line: its line in the file.
      pieces: its texts and slots, in order.
    """

    number: int
    line: int
    pieces: tuple[str | Slot, ...]

    @property
    def slots(self) -> dict[str, int]:
        """The number of alternatives of each slot's name, in the order of the sentence."""
        return {
            piece.name: len(piece.alternatives) for piece in self.pieces if isinstance(piece, Slot)
        }

    def fill(self, choice: Mapping[str, int]) -> str:
        """Write the sentence.

        Args:
          choice: the alternative of each slot's name.
        """
        parts = [
            piece.alternatives[choice[piece.name]] if isinstance(piece, Slot) else piece
            for piece in self.pieces
        ]
        return "".join(parts)

    def alternatives(self, name: str) -> tuple[str, ...]:
        """Return the alternatives of the first slot of a name.

        Args:
          name: of a slot.
        """
        return next(
            piece.alternatives
            for piece in self.pieces
            if isinstance(piece, Slot) and piece.name == name
        )


@dataclass(frozen=True)
class Twins:
    """Sentences that differ in one slot alone.

    Attributes:
      template: the number of their template.
      slot: the name of the slot.
      alternatives: the texts in the slot.
      sentences: the sentence with each of them.
      others: (slot, alternative) of the template's other slots, the same in all sentences.
    """

    template: int
    slot: str
    alternatives: tuple[str, ...]
    sentences: tuple[str, ...]
    others: tuple[tuple[str, str], ...]


def read_templates(value: str, *, option: str = OPTION) -> tuple[Template, ...]:
    """Read a file of templates.

    Args:
      value: the path of a text file, or of a yaml file that ends in .yaml, .yml or .json.
      option: the option that names it, for messages.

    Returns:
      The templates, at least one.

    Raises:
      BadInput: the file is empty, too large or no text, a template is malformed, or there are more
        than MOST_SENTENCES sentences. The message names the line.
    """
    is_yaml = value.lower().endswith(YAML_SUFFIXES)
    path, text = read_text(option, value, accepted=ACCEPTED_YAML if is_yaml else ACCEPTED)
    lists, lines = _yaml_lines(path, text) if is_yaml else _text_lines(path, text)
    templates = []
    sentences = 0
    for number, (line, content) in enumerate(lines, start=1):
        pieces = _Parser(path, line, lists).parse(content)
        template = Template(number, line, pieces)
        sentences += math.prod(template.slots.values())
        if sentences > MOST_SENTENCES:
            raise BadInput(
                f"{path}, line {line} brings the sentences to more than {MOST_SENTENCES:,}; "
                "accepted: fewer alternatives, or several files"
            )
        templates.append(template)
    if not templates:
        raise BadInput(f"{path} has no templates; accepted: {ACCEPTED}")
    return tuple(templates)


def expand(templates: Iterable[Template]) -> Iterator[Twins]:
    """Make the twins of templates: for each slot, with each choice of the other slots.

    Args:
      templates: from `read_templates`.

    Yields:
      The twins.
    """
    for template in templates:
        for name, count in template.slots.items():
            others = {other: size for other, size in template.slots.items() if other != name}
            for choice in itertools.product(*map(range, others.values())):
                fixed = dict(zip(others, choice, strict=True))
                yield Twins(
                    template.number,
                    name,
                    template.alternatives(name),
                    tuple(template.fill({**fixed, name: index}) for index in range(count)),
                    tuple(
                        (other, template.alternatives(other)[index])
                        for other, index in fixed.items()
                    ),
                )


class _Parser:
    """A reader of one template."""

    def __init__(self, path: pathlib.Path, line: int, lists: Mapping[str, tuple[str, ...]]) -> None:
        self._where = f"{path}, line {line}"
        self._lists = lists

    def parse(self, text: str) -> tuple[str | Slot, ...]:
        """Read the pieces of a template.

        Args:
          text: the template.

        Raises:
          BadInput: it is malformed.
        """
        self._check_text(text)
        pieces: list[str | Slot] = []
        start = 0
        while start < len(text):
            opening = text.find("{", start)
            plain = text[start:] if opening < 0 else text[start:opening]
            if "}" in plain:
                raise self._bad("has a } without a {", "braces around alternatives only")
            if plain:
                pieces.append(plain)
            if opening < 0:
                break
            closing = text.find("}", opening)
            if closing < 0:
                raise self._bad("has a { without a }", "alternatives in braces, such as {she|he}")
            pieces.append(self._slot(text[opening + 1 : closing]))
            start = closing + 1
        self._check(pieces)
        return tuple(pieces)

    def _check_text(self, text: str) -> None:
        if len(text) > LONGEST:
            raise self._bad(f"has {len(text):,} characters", f"at most {LONGEST:,}")
        if _has_half_character(text):
            raise self._bad("has half of a character in UTF-16", "whole characters")

    def _slot(self, content: str) -> Slot:
        if "{" in content:
            raise self._bad("has braces inside braces", "alternatives that are plain text")
        if "|" not in content:
            return self._list(content.strip())
        name, colon, rest = content.partition(":")
        is_named = bool(colon) and NAME.fullmatch(name.strip()) is not None
        parts = (rest if is_named else content).split("|")
        alternatives = tuple(part.strip() for part in parts)
        self._check_alternatives(alternatives)
        return Slot(name.strip() if is_named else "|".join(alternatives), alternatives)

    def _list(self, name: str) -> Slot:
        if name not in self._lists:
            lists = f", or the name of a list: {listed(self._lists)}" if self._lists else ""
            raise self._bad(
                f"has {shown('{' + name + '}')}, which has no alternatives",
                f"at least two with | between, such as {{she|he}}{lists}",
            )
        return Slot(name, self._lists[name])

    def _check_alternatives(self, alternatives: Sequence[str]) -> None:
        if not all(alternatives):
            raise self._bad("has an empty alternative", "a text on each side of every |")
        if len(alternatives) > MOST_ALTERNATIVES:
            raise self._bad(
                f"has {len(alternatives):,} alternatives in a slot", f"at most {MOST_ALTERNATIVES}"
            )
        text, times = Counter(alternatives).most_common(1)[0]
        if times > 1:
            raise self._bad(f"has the alternative {shown(text)} twice", "each once")

    def _check(self, pieces: Sequence[str | Slot]) -> None:
        slots = [piece for piece in pieces if isinstance(piece, Slot)]
        if not slots:
            raise self._bad("has no alternatives", "at least one slot, such as {she|he}")
        sizes: dict[str, int] = {}
        for slot in slots:
            size = sizes.setdefault(slot.name, len(slot.alternatives))
            if size != len(slot.alternatives):
                raise self._bad(
                    f"has {size} and {len(slot.alternatives)} alternatives in slots named "
                    f"{slot.name}",
                    "as many in each, since they change together",
                )

    def _bad(self, fault: str, accepted: str) -> BadInput:
        return BadInput(f"{self._where} {fault}; accepted: {accepted}")


def _text_lines(
    path: pathlib.Path, text: str
) -> tuple[dict[str, tuple[str, ...]], list[tuple[int, str]]]:
    """The lists of a text file, and its templates with their lines."""
    lists: dict[str, tuple[str, ...]] = {}
    lines = []
    for line, content in enumerate(LINE_END.split(text), start=1):
        content = content.strip()
        if not content or content.startswith("#"):
            continue
        found = LIST_LINE.fullmatch(content)
        if found is None:
            lines.append((line, content))
        else:
            entries = [entry.strip() for entry in found[2].split("|")]
            _add_list(path, line, lists, found[1], entries)
    return lists, lines


def _yaml_lines(
    path: pathlib.Path, text: str
) -> tuple[dict[str, tuple[str, ...]], list[tuple[int, str]]]:
    """The lists of a yaml file, and its templates with their lines."""
    content = parse_mapping(path, text, accepted=ACCEPTED_YAML)
    unknown = set(content) - {"lists", "templates"}
    if unknown or "templates" not in content:
        fault = f"has {listed(sorted(unknown))}" if unknown else "has no `templates`"
        raise BadInput(f"{path} {fault}; accepted: {ACCEPTED_YAML}")
    nodes = {key.value: value for key, value in _nodes(path, text, content).value}
    lists: dict[str, tuple[str, ...]] = {}
    named = nodes.get("lists")
    if named is not None:
        if not isinstance(named, yaml.MappingNode):
            raise _no_list(path, named)
        for key, value in named.value:
            entries = [entry for _, entry in _texts(path, value)]
            _add_list(path, key.start_mark.line + 1, lists, key.value, entries)
    return lists, _texts(path, nodes["templates"])


def _nodes(path: pathlib.Path, text: str, content: dict) -> yaml.MappingNode:
    """The nodes of a file: they have lines, and texts as written, as No and 007."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        try:
            return yaml.compose(text, loader)
        except yaml.YAMLError:
            # JSON that is no yaml, such as an emoji in two escapes.
            return yaml.compose(json.dumps(content, ensure_ascii=False, indent=1), loader)
    except (yaml.YAMLError, UnicodeEncodeError, RecursionError) as error:
        raise BadInput(
            f"{path} cannot be read ({reason_of(error)}); accepted: {ACCEPTED_YAML}"
        ) from error


def _texts(path: pathlib.Path, node: yaml.Node) -> list[tuple[int, str]]:
    """The texts of a list in yaml, with their lines."""
    if not isinstance(node, yaml.SequenceNode):
        raise _no_list(path, node)
    texts = []
    for item in node.value:
        if not isinstance(item, yaml.ScalarNode):
            raise BadInput(
                f"{path}, line {item.start_mark.line + 1} has no text; accepted: a text in quotes, "
                "such as 'The {nurse|doctor} came.'"
            )
        texts.append((item.start_mark.line + 1, item.value.strip()))
    return texts


def _no_list(path: pathlib.Path, node: yaml.Node) -> BadInput:
    return BadInput(
        f"{path}, line {node.start_mark.line + 1} is no list; accepted: {ACCEPTED_YAML}"
    )


def _add_list(
    path: pathlib.Path,
    line: int,
    lists: dict[str, tuple[str, ...]],
    name: str,
    entries: Sequence[str],
) -> None:
    where = f"{path}, line {line}"
    if NAME.fullmatch(name) is None:
        raise BadInput(
            f"{where} has the list {shown(name)}; accepted: a name of letters, digits and _"
        )
    if name in lists:
        raise BadInput(f"{where} has the list {name} a second time; accepted: each name once")
    is_plain = all(
        entry.strip()
        and len(entry) <= LONGEST
        and not set("{}|") & set(entry)
        and not _has_half_character(entry)
        for entry in entries
    )
    is_repeated = len(set(entries)) < len(entries)
    if not 2 <= len(entries) <= MOST_ALTERNATIVES or is_repeated or not is_plain:
        raise BadInput(
            f"{where} has the list {name} with {shown(list(entries))}; accepted: 2 to "
            f"{MOST_ALTERNATIVES} different texts of 1 to {LONGEST:,} characters, without braces"
        )
    lists[name] = tuple(entry.strip() for entry in entries)


def _has_half_character(text: str) -> bool:
    r"""Return True if a text has half of a surrogate pair, as \ud83d in JSON makes it."""
    return any("\ud800" <= character <= "\udfff" for character in text)
