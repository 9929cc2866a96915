"""Prompt templates: Alpaca's, the tokenizer's chat template, or a custom text."""

import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from balora_jax.data.chat import check_chat_template, end_of_turn, render_prompt
from balora_jax.errors import BadInput, shown

ROLES = ("instruction", "input", "response")
ALPACA = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:"
)
ALPACA_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:"
)


@dataclass(frozen=True)
class Template:
    """A prompt with places for values, and the ending of its answers.

    Attributes:
      names: the roles or fields whose values the prompt contains.
      render: maps values by name to the prompt; a missing value counts as empty.
      ending: the tokens that end an answer.
      adds_special_tokens: True to put the tokenizer's BOS in front; False where the template writes
        its own.
    """

    names: tuple[str, ...]
    render: Callable[[Mapping[str, str]], str]
    ending: tuple[int, ...]
    adds_special_tokens: bool = True


def make_template(template: str, tokenizer: Any) -> Template:
    """Make the prompt template a config names.

    Args:
      template: alpaca, chat, plain (no prompt: the response is the whole text), or a text with
        {instruction}, {input} or the name of any field in braces.
      tokenizer: a Hugging Face tokenizer.

    Raises:
      BadInput: the text has no name in braces or is malformed; or the tokenizer has no end of
        sequence, or no chat template where one is needed.
    """
    if tokenizer.eos_token_id is None:
        raise BadInput(
            "the tokenizer has no end-of-sequence token; accepted: one with eos_token, "
            "which ends answers"
        )
    if template == "chat":
        return _chat_template(tokenizer)
    ending = (tokenizer.eos_token_id,)
    if template == "alpaca":
        return Template(("instruction",), _render_alpaca, ending)
    if template == "plain":
        return Template((), lambda values: "", ending)
    pieces = parse_template(template)
    names = tuple(name for _, name in pieces if name is not None)
    return Template(names, lambda values: fill(pieces, values), ending)


def parse_template(text: str) -> tuple[tuple[str, str | None], ...]:
    """Split a text with {names} into (literal, name) pairs.

        "{a} and {{b}}"  ->  (("", "a"), (" and {", None), ("b}", None))

    Names are looked up, never evaluated: {row.x} is the field called "row.x".

    Args:
      text: the template; {{ and }} are plain braces.

    Raises:
      BadInput: the text is malformed, or has no name.
    """
    accepted = (
        "alpaca, chat, plain, or a text with {instruction}, {input} "
        "or any field's name in braces ({{ for a brace)"
    )
    try:
        parsed = list(string.Formatter().parse(text))
    except ValueError as error:
        raise BadInput(
            f"data.template {shown(text)} is malformed ({error}); accepted: {accepted}"
        ) from error
    if any(spec or conversion or name == "" for _, name, spec, conversion in parsed):
        raise BadInput(
            f"data.template {shown(text)} has braces around more or less than a name; "
            f"accepted: {accepted}"
        )
    if all(name is None for _, name, _, _ in parsed):
        raise BadInput(f"data.template is {shown(text)}; accepted: {accepted}")
    return tuple((literal, name) for literal, name, _, _ in parsed)


def fill(pieces: tuple[tuple[str, str | None], ...], values: Mapping[str, str]) -> str:
    """Fill a parsed template with values; a missing value counts as empty."""
    parts = []
    for literal, name in pieces:
        parts.append(literal)
        if name is not None:
            parts.append(values.get(name, ""))
    return "".join(parts)


def _render_alpaca(values: Mapping[str, str]) -> str:
    pieces = _ALPACA_WITH_INPUT if values.get("input") else _ALPACA
    return fill(pieces, values)


_ALPACA = parse_template(ALPACA)
_ALPACA_WITH_INPUT = parse_template(ALPACA_WITH_INPUT)


def _chat_template(tokenizer: Any) -> Template:
    check_chat_template(tokenizer)

    def render(values: Mapping[str, str]) -> str:
        given = [values[name] for name in ("instruction", "input") if values.get(name)]
        return render_prompt(tokenizer, "\n\n".join(given))

    ending = (end_of_turn(tokenizer),)
    return Template(("instruction",), render, ending, adds_special_tokens=False)
