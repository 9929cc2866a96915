"""General text to read models by: paragraphs of a file."""

import pathlib

from balora_jax.config.paths import FILE, check_path
from balora_jax.data import load_rows
from balora_jax.errors import BadInput, reason_of

LARGEST = 2**28
FIELD = "text"
ACCEPTED = (
    "a .txt file in UTF-8 of paragraphs with empty lines between, or .jsonl with a field text"
)


def read_passages(option: str, value: str, limit: int) -> list[str]:
    """Read the first passages of a file.

    Args:
      option: the option's name in messages.
      value: the path.
      limit: the most passages.

    Returns:
      The passages, none of them empty.

    Raises:
      BadInput: the file is no such file, or has no passage.
    """
    path = check_path(option, value, kind=FILE, must_exist=True)
    if path.suffix == ".txt":
        texts = _paragraphs(path)
    else:
        rows = load_rows(str(path))
        rows.require((FIELD,))
        texts = []
        for index, row in enumerate(rows):
            text = row.get(FIELD)
            if not isinstance(text, str):
                raise BadInput(f"{rows.where(index)}: {FIELD} is no text; accepted: {ACCEPTED}")
            rows.require_unicode(index, FIELD, text)
            texts.append(text)
    passages = [text.strip() for text in texts if text.strip()][:limit]
    if not passages:
        raise BadInput(f"{option} {path} has no passage; accepted: {ACCEPTED}")
    return passages


def _paragraphs(path: pathlib.Path) -> list[str]:
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise BadInput(f"{path} has more than {LARGEST} bytes; accepted: {ACCEPTED}")
        text = content.decode("utf-8-sig")
        if "\0" in text:
            raise BadInput(f"{path} has bytes of zero and is no text; accepted: {ACCEPTED}")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(
            f"{path} cannot be read ({reason_of(error)}); accepted: {ACCEPTED}"
        ) from error
    lines = [line.strip() for line in text.splitlines()]
    return "\n".join(lines).split("\n\n")
