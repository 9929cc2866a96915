"""Which of a data set's fields plays which part, and its text in every row."""

from collections.abc import Iterator, Mapping
from typing import Any

from balora_jax.data.prompts import ROLES, Template
from balora_jax.data.sources import Rows
from balora_jax.errors import BadInput


def read_texts(
    rows: Rows, template: Template, fields: Mapping[str, str]
) -> Iterator[dict[str, str]]:
    """Each row's texts: one for every name of the template, for every role given in fields, and `response`.

    Args:
        rows: from load_rows.
        template: from make_template.
        fields: role -> field. A name that is no key here is a field itself.

    Raises:
        BadInput: a role is unknown, a field is missing (the message lists those there are) or holds no text.
    """
    wanted = _wanted_fields(rows, template, fields)
    for index, row in enumerate(rows.rows):
        yield {name: _text(row, field, name, rows, index) for name, field in wanted.items()}


def _wanted_fields(rows: Rows, template: Template, fields: Mapping[str, str]) -> dict[str, str]:
    unknown = sorted(set(fields) - set(ROLES))
    if unknown:
        raise BadInput(f"data.fields has {', '.join(unknown)}; accepted: {', '.join(ROLES)}")
    wanted = {**fields} | {name: fields.get(name, name) for name in (*template.names, "response")}
    missing = sorted(set(wanted.values()) - set(rows.columns))
    if missing:
        there = ", ".join(rows.columns)
        raise BadInput(
            f"{rows.source} has no field {', '.join(missing)} (data.fields, data.template); it has: {there}"
        )
    return wanted


def _text(row: Mapping[str, Any], field: str, name: str, rows: Rows, index: int) -> str:
    # Alpaca-like sets leave an empty input out of the row.
    if field not in row and name != "input":
        raise BadInput(f"{rows.where(index)} has no field {field}; it has: {', '.join(row)}")
    value = row.get(field)
    if value is None:
        return ""
    if isinstance(value, str | int | float):
        return str(value)
    raise BadInput(
        f"{rows.where(index)}: {field} is a {type(value).__name__}; accepted: text or a number"
    )
