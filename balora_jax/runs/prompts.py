"""The prompts of `balora generate`: one, the lines of a file or of standard input, or rows."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from balora_jax import data
from balora_jax.config.generate import GenerateOptions
from balora_jax.config.paths import FILE, check_path
from balora_jax.errors import BadInput, reason_of
from balora_jax.training.processes import is_first, of_first

# Bytes of a file of prompts.
LARGEST = 2**28
# The value of --prompts that reads standard input.
STANDARD_INPUT = "-"
FIELD = "prompt"
ACCEPTED = (
    "accepted: a text file in UTF-8 with a prompt a line, .jsonl with a field prompt or messages, "
    "or - for standard input"
)


@dataclass(frozen=True)
class Prompt:
    """A prompt.

    Attributes:
      text: as it is printed; of a conversation its last message.
      messages: the turns of a conversation, which end with the user's; None for a text.
    """

    text: str
    messages: Sequence[Mapping[str, Any]] | None = None


def read_prompts(options: GenerateOptions) -> list[Prompt]:
    """Read the prompts that the options name.

    Args:
      options: with `prompt` or `prompts`.

    Returns:
      The prompts, at least one, none of them empty.

    Raises:
      BadInput: a prompt is empty, or the file cannot be read.
    """
    if options.prompt is not None:
        prompts = [Prompt(options.prompt)]
    elif options.prompts.endswith(".jsonl"):
        prompts = _rows(options.prompts)
    else:
        lines = _lines(options.prompts)
        prompts = [Prompt(line) for line in lines if line.strip()]
    if not prompts or not all(prompt.text.strip() for prompt in prompts):
        raise BadInput("a prompt is empty; accepted: at least one word")
    return prompts


def _rows(source: str) -> list[Prompt]:
    rows = data.load_rows(source)
    turns = data.conversation_field(rows.columns)
    if FIELD not in rows.columns and turns is not None:
        conversations = data.read_conversations(rows, turns)
        return [_conversation(rows.where(i), turn) for i, turn in enumerate(conversations)]
    rows.require((FIELD,))
    prompts = []
    for index, row in enumerate(rows):
        text = row.get(FIELD)
        if not isinstance(text, str) or not text.strip():
            raise BadInput(f"{rows.where(index)}: {FIELD} is no text; {ACCEPTED}")
        rows.require_unicode(index, FIELD, text)
        prompts.append(Prompt(text))
    return prompts


def _conversation(where: str, messages: Sequence[Mapping[str, Any]]) -> Prompt:
    last = messages[-1]
    if last["role"] == "assistant":
        raise BadInput(
            f"{where}: the last turn is the assistant's; accepted: conversations that end with the "
            "user's, which is answered"
        )
    return Prompt(str(last.get("content") or ""), messages)


def _lines(value: str) -> list[str]:
    """The lines of a file, or of standard input."""
    if value == STANDARD_INPUT:
        if sys.stdin is None and is_first():
            raise BadInput("--prompts is -, and standard input is closed; accepted: prompts there")
        # Of several processes, launchers give it to the first alone.
        content = of_first(sys.stdin.buffer.read(LARGEST + 1) if is_first() else b"")
        return _decode("standard input", content).splitlines()
    path = check_path("--prompts", value, kind=FILE)
    if not path.is_file():
        raise BadInput(f"--prompts {path} is no file; {ACCEPTED}")
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except OSError as error:
        raise BadInput(
            f"--prompts {path} cannot be read ({reason_of(error)}); {ACCEPTED}"
        ) from error
    return _decode(f"--prompts {path}", content).splitlines()


def _decode(name: str, content: bytes) -> str:
    if len(content) > LARGEST:
        raise BadInput(f"{name} has more than {LARGEST} bytes; {ACCEPTED}")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"{name} cannot be read ({reason_of(error)}); {ACCEPTED}") from error
