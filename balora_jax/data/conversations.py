"""Conversations: turns of several roles, rendered by the tokenizer's chat template.

Two forms are read: OpenAI's `messages`, of {role, content}, and ShareGPT's `conversations`, of
{from, value}. The loss counts what the assistant says, with the token that ends its turn.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from balora_jax.data.chat import Messages, end_of_turn, render
from balora_jax.data.sources import Rows
from balora_jax.data.tokenizer import token_ids
from balora_jax.errors import BadInput, shown

FIELDS = ("messages", "conversations")
ASSISTANT = "assistant"
ROLES = ("system", "developer", "user", ASSISTANT, "tool")
# ShareGPT's names.
OTHER_ROLES = {"human": "user", "gpt": ASSISTANT, "bot": ASSISTANT, "model": ASSISTANT}
MOST_TURNS = 10_000
LossOn = Literal["all", "last"]


class Conversation(NamedTuple):
    """A tokenized conversation.

    Attributes:
      tokens: int32 [length].
      counted: bool [length], True at tokens that the assistant writes.
    """

    tokens: np.ndarray
    counted: np.ndarray


def conversation_field(columns: Sequence[str]) -> str | None:
    """Return the field that holds conversations; None if no field of a known name does.

    Args:
      columns: the fields of a set.
    """
    return next((name for name in FIELDS if name in columns), None)


def read_conversations(rows: Rows, field: str) -> Iterator[Messages]:
    """Read the turns of each row.

    Args:
      rows: from `load_rows`.
      field: the field of the turns.

    Yields:
      Messages of role and content; other fields, such as a tool's name, as they are.

    Raises:
      BadInput: a row has no list of turns, or a turn no known role or no text.
    """
    for index, row in enumerate(rows):
        turns = row.get(field)
        where = f"{rows.where(index)}: {field}"
        if not isinstance(turns, list) or not 0 < len(turns) <= MOST_TURNS:
            raise BadInput(
                f"{where} is {shown(turns)}; accepted: a list of 1 to {MOST_TURNS:,} turns, each "
                "with role and content (or from and value)"
            )
        yield [_message(f"{where}, turn {number}", turn) for number, turn in enumerate(turns, 1)]


def _message(where: str, turn: Any) -> dict[str, Any]:
    if not isinstance(turn, Mapping):
        raise BadInput(f"{where} is {shown(turn)}; accepted: role and content (or from and value)")
    role = turn.get("role", turn.get("from"))
    role = OTHER_ROLES.get(role, role) if isinstance(role, str) else role
    if role not in ROLES:
        raise BadInput(
            f"{where} has the role {shown(role)}; accepted: {', '.join(ROLES)}, or human and gpt"
        )
    content = _text(turn.get("content", turn.get("value")))
    if content is None and not turn.get("tool_calls"):
        raise BadInput(f"{where} has no text in content (or value); accepted: text")
    if content and any("\ud800" <= character <= "\udfff" for character in content):
        raise BadInput(f"{where} has half of a character in UTF-16; accepted: whole characters")
    kept = {
        name: value
        for name, value in turn.items()
        if name not in ("role", "from", "content", "value") and value is not None
    }
    return {"role": role, "content": content or "", **kept}


def _text(content: Any) -> str | None:
    """The text of a content, which may be in parts; None if it is none."""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(part, Mapping) for part in content):
        texts = [part.get("text") for part in content]
        if all(isinstance(text, str) for text in texts):
            return "".join(texts)
    return None


def tokenize_conversation(tokenizer: Any, messages: Messages, loss_on: LossOn) -> Conversation:
    """Tokenize a conversation as a whole, and mark what the assistant writes.

    That is the text between the prompt that the template makes of the turns before, and the end of
    the turn; tokens are those of the whole text.

    Args:
      tokenizer: a Hugging Face tokenizer with a chat template.
      messages: the turns.
      loss_on: all turns of the assistant, or the last one.

    Returns:
      The tokens; none is counted if the assistant says nothing.

    Raises:
      BadInput: the template fails, or writes earlier turns in another way once there are later
        ones; or the tokenizer does not tell where in the text a token is.
    """
    text = render(tokenizer, messages)
    encoded = _encode(tokenizer, text)
    starts = np.array([start for start, _ in encoded["offset_mapping"][0]])
    tokens = np.array(encoded["input_ids"][0], np.int32)
    counted = np.zeros(len(tokens), bool)
    end = end_of_turn(tokenizer)
    # A first turn answers nothing: no prompt leads to it.
    turns = [index for index, turn in enumerate(messages) if index and turn["role"] == ASSISTANT]
    for turn in turns if loss_on == "all" else turns[-1:]:
        first, last = _span(tokenizer, messages, turn, text)
        inside = np.flatnonzero((starts >= first) & (starts < last))
        ends = inside[tokens[inside] == end]
        # After the end of the turn a template may write a line break, which nobody generates.
        counted[inside if not len(ends) else inside[inside <= ends[-1]]] = True
    return Conversation(tokens, counted)


def _encode(tokenizer: Any, text: str) -> Mapping[str, Any]:
    if not tokenizer.is_fast:
        raise BadInput(
            "the tokenizer does not tell where in a text its tokens are; accepted: one with "
            "tokenizer.json, or data of prompts and answers"
        )
    return token_ids(tokenizer, [text], add_special_tokens=False, return_offsets_mapping=True)


def _span(tokenizer: Any, messages: Messages, turn: int, text: str) -> tuple[int, int]:
    """The part of a text that the assistant writes in a turn, its end included."""
    before = render(tokenizer, messages[:turn], add_generation_prompt=True)
    until = text if turn == len(messages) - 1 else render(tokenizer, messages[: turn + 1])
    if not (text.startswith(until) and until.startswith(before)):
        raise BadInput(
            f"the chat template writes turn {turn + 1} in another way once it is answered or "
            "followed by others, so that what the assistant writes there is not known; accepted: "
            "data.loss_on last, or another template"
        )
    return len(before), len(until)


def prompt_of(tokenizer: Any, messages: Messages) -> list[int]:
    """Tokenize the prompt of a conversation's next answer.

    Args:
      tokenizer: as for `tokenize_conversation`.
      messages: the turns; answers at the end are left out.

    Raises:
      BadInput: no turn is left, or the template fails.
    """
    asked = list(messages)
    while asked and asked[-1]["role"] == ASSISTANT:
        asked.pop()
    if not asked:
        raise BadInput(
            "a conversation has no turn to answer; accepted: one that does not begin with an answer"
        )
    text = render(tokenizer, asked, add_generation_prompt=True)
    return token_ids(tokenizer, [text], add_special_tokens=False)["input_ids"][0]
