"""The fields of a data set's rows, and the text they hold for a template."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from balora_jax.data.prompts import ROLES, Template
from balora_jax.data.sources import Rows
from balora_jax.errors import BadInput, listed

# The shapes that public sets have: role -> field. A role that is not there is empty.
SHAPES = (
    {"instruction": "instruction", "input": "input", "response": "output"},
    {"instruction": "instruction", "response": "output"},
    {"instruction": "prompt", "response": "completion"},
    {"instruction": "prompt", "response": "response"},
    {"instruction": "question", "response": "answer"},
    {"instruction": "query", "response": "response"},
    {"response": "text"},
)


def recognize_fields(
    columns: Sequence[str], names: Sequence[str], fields: Mapping[str, str]
) -> dict[str, str]:
    """Find the fields of the roles in a set of a known shape, where none are configured.

    Args:
      columns: the fields of the set.
      names: the roles and fields that are needed.
      fields: `data.fields`: role -> field.

    Returns:
      The configured fields; or those of the first shape that the set has and that has every role
      that is needed; or none, where the set has the roles themselves or no known shape.
    """
    # A template's names that are no roles are fields already.
    needed = [name for name in names if name in ROLES and name != "input"]
    if fields or all(name in columns for name in needed):
        return dict(fields)
    for shape in SHAPES:
        has_roles = all(name in shape or name in columns for name in needed)
        read = {role: field for role, field in shape.items() if role in (*needed, "input")}
        if has_roles and all(field in columns for field in read.values()):
            return read
    return {}


def read_fields(
    rows: Rows, template: Template, fields: Mapping[str, str]
) -> Iterator[dict[str, str]]:
    """Read the values that a template needs, and the answers.

    Args:
      rows: from `load_rows`.
      template: from `make_template`.
      fields: role -> field; a name that is no role here is a field itself.

    Yields:
      For each row the text of every name of the template, of every role in `fields`, and of
      `response`.

    Raises:
      BadInput: a role is unknown, a field is missing (the message lists the fields), or a field
        holds no text.
    """
    sources = _field_of_each_name(rows, fields, (*template.names, "response"))
    for index, row in enumerate(rows):
        yield {name: _text(row, field, name, rows, index) for name, field in sources.items()}


def read_prompt_fields(
    rows: Rows, template: Template, fields: Mapping[str, str]
) -> Iterator[dict[str, str]]:
    """Read the values that a template's prompts need, of rows without answers.

    Args:
      rows: from `load_rows`.
      template: from `make_template`.
      fields: as for `read_fields`; the response's is not read.

    Yields:
      For each row the text of every name of the template, and of `input` if `fields` has it.

    Raises:
      BadInput: as `read_fields`.
    """
    asked = {role: field for role, field in fields.items() if role != "response"}
    sources = _field_of_each_name(rows, asked, template.names)
    for index, row in enumerate(rows):
        yield {name: _text(row, field, name, rows, index) for name, field in sources.items()}


def value_at(row: Mapping[str, Any], field: str) -> Any:
    """Return a field of a row, or what a path such as instances.0.output leads to.

    Args:
      row: of a data set.
      field: a field, or a path through mappings by keys and lists by numbers from 0.

    Raises:
      LookupError: there is no such field.
    """
    if field in row:
        return row[field]
    value: Any = row
    for part in field.split("."):
        is_item = isinstance(value, Sequence) and not isinstance(value, str)
        if is_item and part.isascii() and part.isdecimal() and len(part) < 10:
            value = value[int(part)]
        elif isinstance(value, Mapping):
            value = value[part]
        else:
            raise KeyError(part)
    return value


def _field_of_each_name(
    rows: Rows, fields: Mapping[str, str], names: Sequence[str]
) -> dict[str, str]:
    unknown = sorted(set(fields) - set(ROLES))
    if unknown:
        raise BadInput(f"data.fields has {listed(unknown)}; accepted: {', '.join(ROLES)}")
    sources = dict(fields)
    for name in names:
        sources[name] = fields.get(name, name)
    wanted = sorted(set(sources.values()))
    # Of a path such as instances.0.output the set has the first part.
    unknown = [field for field in wanted if not {field, field.split(".")[0]} & set(rows.columns)]
    rows.require(unknown, note=" (data.fields, data.template)")
    return sources


def _text(row: Mapping[str, Any], field: str, name: str, rows: Rows, index: int) -> str:
    try:
        value = value_at(row, field)
    except LookupError as error:
        # Data sets like Alpaca's leave an empty input out of the row.
        if name == "input":
            return ""
        raise BadInput(
            f"{rows.where(index)} has no field {field}; it has: {listed(row) or 'none'}; "
            "accepted: rows that all have the field"
        ) from error
    if value is None:
        return ""
    if isinstance(value, str):
        rows.require_unicode(index, field, value)
        return value
    # Of these are true and false, which BoolQ's answers are: True and False.
    is_number = isinstance(value, int | float)
    if is_number and math.isfinite(value):
        return str(value)
    found = str(value) if is_number else f"a {type(value).__name__}"
    raise BadInput(f"{rows.where(index)}: {field} is {found}; accepted: text or a number")
