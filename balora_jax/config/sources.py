"""The sources of a training set: one, or several with weights."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from balora_jax.errors import BadInput, listed, shown

KEYS = ("source", "subset", "split", "limit", "weight", "fields")
# Of weights: their sum and their parts stay numbers.
LARGEST_WEIGHT = 1e9
SMALLEST_WEIGHT = 1e-9
MOST_ROWS = 10**12
# The first rows of a source: meta-math/MetaMathQA:1000, as the official code has it.
SHORT = re.compile(r"(?P<source>.+):(?P<limit>[0-9]{1,12})")
FORM = (
    "a file, a folder, a pattern such as data/*.jsonl, a hub name, or one of them with a number "
    "of rows (openai/gsm8k:1000)"
)


@dataclass(frozen=True)
class Source:
    """A source of training rows.

    Attributes:
      source: a file, a folder, a pattern of files, or a hub name.
      subset: the configuration of a hub set; None for `data.subset`.
      split: the split of a hub set or a folder; None for `data.train_split`.
      limit: its first rows alone, this many; None for `data.limit`.
      weight: the part of the drawn examples that are its own, beside the other sources' weights;
        None where every row comes equally often.
      fields: role -> field, as `data.fields`; None for `data.fields`.
    """

    source: str
    subset: str | None = None
    split: str | None = None
    limit: int | None = None
    weight: float | None = None
    fields: dict[str, str] | None = field(default=None)


def parse_sources(value: str | list[str | Mapping[str, Any]]) -> tuple[Source, ...]:
    """Read the value of `data.train`.

    Args:
      value: a source, or a list of sources: texts, or mappings with the keys of `Source`.

    Raises:
      BadInput: there is no source, a key is unknown, a value is of the wrong kind, or some sources
        have weights and others have none.
    """
    if isinstance(value, str):
        return (_parse_text(value),)
    if not value:
        raise BadInput("data.train is []; accepted: a set, or a list of at least one")
    sources = tuple(_parse_item(item, number) for number, item in enumerate(value, 1))
    missing = [source.source for source in sources if source.weight is None]
    if missing and len(missing) < len(sources):
        raise BadInput(
            f"data.train has weights for some sources and none for {listed(missing)}; accepted: a "
            "weight for each of them, or for none"
        )
    return sources


def _parse_item(item: Any, number: int) -> Source:
    if isinstance(item, str):
        return _parse_text(item)
    if isinstance(item, Mapping):
        return _parse_mapping(item, number)
    raise BadInput(
        f"source {number} of data.train is {shown(item)}; accepted: text, or a mapping of "
        f"{', '.join(KEYS)}"
    )


def _parse_text(text: str) -> Source:
    short = SHORT.fullmatch(text)
    if short is None or _exists(text):
        return Source(text)
    limit = int(short["limit"])
    if limit < 1:
        raise BadInput(f"data.train {shown(text)} has a number of rows of 0; accepted: at least 1")
    if SHORT.fullmatch(short["source"]):
        raise BadInput(f"data.train {shown(text)} has two numbers of rows; accepted: {FORM}")
    return Source(short["source"], limit=limit)


def _exists(name: str) -> bool:
    try:
        return os.path.lexists(os.path.expanduser(name))
    except ValueError:
        return False


def _parse_mapping(item: Mapping[str, Any], number: int) -> Source:
    place = f"source {number} of data.train"
    unknown = [key for key in item if key not in KEYS]
    if unknown:
        raise BadInput(f"{place} has the key {listed(unknown)}; accepted: {', '.join(KEYS)}")
    if not isinstance(item.get("source"), str):
        raise BadInput(f"{place} has no source; accepted: source: {FORM}")
    source = _parse_text(item["source"])
    values = {"source": source.source, "limit": source.limit}
    for key, given in item.items():
        if key == "source" or given is None:
            continue
        if not _fits(key, given):
            raise BadInput(f"{place}: {key} is {shown(given)}; accepted: {ACCEPTED[key]}")
        values[key] = given
    if source.limit is not None and item.get("limit") is not None:
        raise BadInput(
            f"{place}: limit is {item['limit']} and source is {shown(item['source'])}; "
            "accepted: one number of rows"
        )
    return Source(**values)


ACCEPTED = {
    "subset": "text",
    "split": "text",
    "limit": f"a whole number of at least 1, at most {MOST_ROWS}",
    "weight": f"a number above 0, from {SMALLEST_WEIGHT:g} to {LARGEST_WEIGHT:g}",
    "fields": "a mapping of text to text",
}


def _fits(key: str, value: Any) -> bool:
    if key in ("subset", "split"):
        return isinstance(value, str)
    if key == "fields":
        pairs = value.items() if isinstance(value, dict) else [(None, None)]
        return all(isinstance(text, str) for pair in pairs for text in pair)
    # True is 1 in Python.
    if isinstance(value, bool):
        return False
    if key == "limit":
        return isinstance(value, int) and 1 <= value <= MOST_ROWS
    return isinstance(value, int | float) and SMALLEST_WEIGHT <= value <= LARGEST_WEIGHT
