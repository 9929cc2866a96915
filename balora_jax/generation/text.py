"""Tokens to text, whole or as they come, up to a stop string."""

import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

# How many tokens of the prompt a continuation is decoded with, for the space or the letter at the seam.
SEAM = 8
INCOMPLETE = "\N{REPLACEMENT CHARACTER}"


def continuation(
    tokenizer: Any, prompt: Sequence[int], tokens: Sequence[int], stop: Sequence[str] = ()
) -> str:
    """The text that tokens add to a prompt, up to the first stop string.

    Args:
        tokenizer: a Hugging Face tokenizer.
        prompt: the prompt's tokens.
        tokens: those that follow.
        stop: strings that end the text; they are not part of it.

    Returns:
        The text, without special tokens.
    """
    decode = functools.partial(
        tokenizer.decode, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    seam = list(prompt[-SEAM:])
    text = decode(seam + list(tokens))[len(decode(seam)) :]
    ends = [text.find(string) for string in stop if string in text]
    return text[: min(ends)] if ends else text


def stream_text(
    tokenizer: Any, prompt: Sequence[int], tokens: Iterable[int], stop: Sequence[str] = ()
) -> Iterator[str]:
    """The pieces of a continuation's text as its tokens come.

    A piece is held back while it may be part of a letter or of a stop string.

    Args:
        tokenizer, prompt, stop: as for `continuation`.
        tokens: as they come; no more are asked for once a stop string is there.

    Yields:
        Pieces, which together are the continuation.
    """
    sofar, shown = [], ""
    for token in tokens:
        sofar.append(int(token))
        whole = continuation(tokenizer, prompt, sofar)
        text = continuation(tokenizer, prompt, sofar, stop)
        if text != whole:
            break
        text = text[: len(text) - _held(text, stop)]
        if len(text) > len(shown):
            yield text[len(shown) :]
            shown = text
    rest = continuation(tokenizer, prompt, sofar, stop)[len(shown) :]
    if rest:
        yield rest


def _held(text: str, stop: Sequence[str]) -> int:
    """How many letters at the end may still change or turn out to begin a stop string."""
    beginnings = (string[:n] for string in stop for n in range(1, len(string)))
    held = max((len(start) for start in beginnings if text.endswith(start)), default=0)
    return max(held, len(text) - len(text.rstrip(INCOMPLETE)))
