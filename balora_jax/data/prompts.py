"""From a row to the text the model is asked with: Alpaca's, the tokenizer's own chat form, or a custom text."""

import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from balora_jax.errors import BadInput

ROLES = ("instruction", "input", "response")
ALPACA = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:"
)
ALPACA_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:"
)
# Stands for an answer while a chat template is asked what it writes after one.
SENTINEL = "BALORA0ANSWER0HERE"


@dataclass(frozen=True)
class Template:
    """How a prompt is made.

    Args:
        names: the roles or fields it needs.
        render: their values -> the prompt. A value that is not there counts as empty.
        ending: the tokens that end an answer.
        adds_special_tokens: whether the tokenizer is to put its own BOS in front (a chat template writes it itself).
    """

    names: tuple[str, ...]
    render: Callable[[Mapping[str, str]], str]
    ending: tuple[int, ...]
    adds_special_tokens: bool = True


def make_template(template: str, tokenizer: Any) -> Template:
    """Make the prompt template a config names.

    Args:
        template: alpaca, chat, plain (no prompt: the response is all the text there is), or a text with {instruction},
            {input} or any field's name in braces.
        tokenizer: a Hugging Face tokenizer.

    Raises:
        BadInput: the text has no name in braces or is malformed, or the tokenizer lacks what is needed.
    """
    if tokenizer.eos_token_id is None:
        raise BadInput(
            "the tokenizer has no end-of-sequence token; accepted: one with eos_token, which ends answers"
        )
    if template == "chat":
        return _chat(tokenizer)
    ending = (tokenizer.eos_token_id,)
    if template == "alpaca":
        return Template(("instruction",), _alpaca, ending)
    if template == "plain":
        return Template((), lambda values: "", ending)
    pieces = parse_template(template)
    return Template(
        tuple(name for _, name in pieces if name is not None),
        lambda values: fill(pieces, values),
        ending,
    )


def parse_template(text: str) -> tuple[tuple[str, str | None], ...]:
    """Split a text with {names} into (literal, name) pairs; the last name may be None. {{ and }} are plain braces.

    Names are looked up, never evaluated: {row.x} is the field called "row.x".
    """
    accepted = (
        "alpaca, chat, plain, or a text with {instruction}, {input} "
        "or any field's name in braces ({{ for a brace)"
    )
    try:
        parsed = list(string.Formatter().parse(text))
    except ValueError as error:
        raise BadInput(
            f"data.template {text!r} is malformed ({error}); accepted: {accepted}"
        ) from error
    if any(spec or conversion or name == "" for _, name, spec, conversion in parsed):
        raise BadInput(
            f"data.template {text!r} has braces around more or less than a name; accepted: {accepted}"
        )
    if all(name is None for _, name, _, _ in parsed):
        raise BadInput(f"data.template is {text!r}; accepted: {accepted}")
    return tuple((literal, name) for literal, name, _, _ in parsed)


def fill(pieces: tuple[tuple[str, str | None], ...], values: Mapping[str, str]) -> str:
    """Put values in the places of a parsed template."""
    return "".join(
        literal + ("" if name is None else values.get(name, "")) for literal, name in pieces
    )


def _alpaca(values: Mapping[str, str]) -> str:
    return fill(_ALPACA_WITH_INPUT if values.get("input") else _ALPACA, values)


_ALPACA = parse_template(ALPACA)
_ALPACA_WITH_INPUT = parse_template(ALPACA_WITH_INPUT)


def _chat(tokenizer: Any) -> Template:
    if not getattr(tokenizer, "chat_template", None):
        raise BadInput(
            "data.template is 'chat' but the tokenizer has no chat template; accepted: alpaca or a text"
        )

    def render(values: Mapping[str, str]) -> str:
        asked = "\n\n".join(values[name] for name in ("instruction", "input") if values.get(name))
        return _apply(tokenizer, [{"role": "user", "content": asked}], add_generation_prompt=True)

    return Template(("instruction",), render, (_end_of_turn(tokenizer),), adds_special_tokens=False)


def _apply(tokenizer: Any, messages: list[dict[str, str]], **options: Any) -> str:
    import jinja2

    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, **options)
    except jinja2.TemplateError as error:
        raise BadInput(f"the tokenizer's chat template cannot be used: {error}") from error


def _end_of_turn(tokenizer: Any) -> int:
    """The special token the chat template writes after an answer (Gemma: <end_of_turn>); EOS where there is none."""
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": SENTINEL}]
    _, found, after = _apply(tokenizer, turns).rpartition(SENTINEL)
    special = {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
    special |= set(tokenizer.all_special_ids)
    ids = tokenizer(after if found else "", add_special_tokens=False)["input_ids"]
    return next((id for id in ids if id in special), tokenizer.eos_token_id)
