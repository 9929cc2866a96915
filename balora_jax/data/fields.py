"""The fields of a data set's rows, and the text they hold for a template."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from balora_jax.data.prompts import ROLES, Template
from balora_jax.data.sources import Rows
from balora_jax.errors import BadInput, listed


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


def _field_of_each_name(
    rows: Rows, fields: Mapping[str, str], names: Sequence[str]
) -> dict[str, str]:
    unknown = sorted(set(fields) - set(ROLES))
    if unknown:
        raise BadInput(f"data.fields has {listed(unknown)}; accepted: {', '.join(ROLES)}")
    sources = dict(fields)
    for name in names:
        sources[name] = fields.get(name, name)
    rows.require(sorted(set(sources.values())), note=" (data.fields, data.template)")
    return sources


def _text(row: Mapping[str, Any], field: str, name: str, rows: Rows, index: int) -> str:
    # Data sets like Alpaca's leave an empty input out of the row.
    if field not in row and name != "input":
        raise BadInput(
            f"{rows.where(index)} has no field {field}; it has: {listed(row) or 'none'}; "
            "accepted: rows that all have the field"
        )
    value = row.get(field)
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
