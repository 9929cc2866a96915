"""Small files of the user's own: texts in UTF-8 and mappings in yaml, of bounded size."""

import json
import pathlib
from typing import Any

from balora_jax.config.paths import FILE, check_path
from balora_jax.config.yaml_files import UnreadableValue, read_value
from balora_jax.errors import BadInput, reason_of

LARGEST = 2**20


def read_text(option: str, value: str, *, accepted: str) -> tuple[pathlib.Path, str]:
    """Read a text file.

    Args:
      option: the option that names the file, for messages.
      value: the path.
      accepted: the kind of file, for messages.

    Returns:
      The path, and the text without a byte order mark.

    Raises:
      BadInput: it is no file, is empty, larger than LARGEST bytes or not UTF-8, or has zero bytes.
    """
    path = check_path(option, value, kind=FILE, must_exist=True)
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror}); accepted: {accepted}") from error
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise BadInput(
            f"{path}, line {line} is not text in UTF-8 ({error.reason}); accepted: {accepted}"
        ) from error
    if len(content) > LARGEST:
        raise BadInput(f"{path} is larger than {LARGEST:,} bytes; accepted: {accepted}")
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise BadInput(f"{path}, line {line} has a zero byte; accepted: {accepted}")
    if not text.strip():
        raise BadInput(f"{path} is empty; accepted: {accepted}")
    return path, text


def parse_mapping(path: pathlib.Path, text: str, *, accepted: str) -> dict:
    """Read a mapping in yaml or JSON.

    Args:
      path: the file, for messages.
      text: its text.
      accepted: the kind of file, for messages.

    Returns:
      The mapping.

    Raises:
      BadInput: the text is no yaml, has aliases or a key twice, is nested too deep, or is no
        mapping.
    """
    if path.suffix == ".json":
        return _parse_json(path, text, accepted)
    try:
        content = read_value(text)
    except UnreadableValue as error:
        line = "" if error.line is None else f", line {error.line}"
        raise BadInput(f"{path}{line} {error.reason}; accepted: {accepted}") from error
    if not isinstance(content, dict):
        raise BadInput(f"{path} holds no mapping; accepted: {accepted}")
    return content


def _parse_json(path: pathlib.Path, text: str, accepted: str) -> dict:
    """A mapping in JSON, which is not all yaml: an emoji may be two escapes."""
    try:
        content = json.loads(text, object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path} is no JSON ({reason_of(error)}); accepted: {accepted}") from error
    if not isinstance(content, dict):
        raise BadInput(f"{path} holds no mapping; accepted: {accepted}")
    return content


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is there twice")
    return found
