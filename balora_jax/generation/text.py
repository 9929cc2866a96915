"""Tokens to text, whole or as they come, up to a stop string."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

# Tokens of the prompt that are decoded with the continuation, for the space or the letter between.
CONTEXT = 8
# Stands for the bytes of a character that is not complete yet.
INCOMPLETE = "\N{REPLACEMENT CHARACTER}"


def continuation(
    tokenizer: Any, prompt: Sequence[int], tokens: Sequence[int], stop: Sequence[str] = ()
) -> str:
    """Decode the text that tokens add to a prompt, up to the first stop string.

    Args:
      tokenizer: a Hugging Face tokenizer.
      prompt: the tokens of the prompt.
      tokens: the tokens that follow.
      stop: strings that end the text; they are not part of it.

    Returns:
      The text, without special tokens.
    """
    context = list(prompt[-CONTEXT:])
    before = _decode(tokenizer, context)
    text = _decode(tokenizer, context + list(tokens))[len(before) :]
    ends = [text.find(string) for string in stop if string in text]
    return text[: min(ends)] if ends else text


def stream_text(
    tokenizer: Any, prompt: Sequence[int], tokens: Iterable[int], stop: Sequence[str] = ()
) -> Iterator[str]:
    """Decode a continuation piece by piece as its tokens come.

    A piece is held back while it may be part of a character or of a stop string.

    Args:
      tokenizer: as for `continuation`.
      prompt: as for `continuation`.
      tokens: the tokens as they come; none is taken after a stop string.
      stop: as for `continuation`.

    Yields:
      Pieces, which together are the continuation.
    """
    received: list[int] = []
    shown = ""
    for token in tokens:
        received.append(int(token))
        whole = continuation(tokenizer, prompt, received)
        text = continuation(tokenizer, prompt, received, stop)
        if text != whole:
            break
        final = text[: len(text) - _unsettled(text, stop)]
        if len(final) > len(shown):
            yield final[len(shown) :]
            shown = final
    rest = continuation(tokenizer, prompt, received, stop)[len(shown) :]
    if rest:
        yield rest


def _decode(tokenizer: Any, tokens: Sequence[int]) -> str:
    return tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def _unsettled(text: str, stop: Sequence[str]) -> int:
    """Count the characters at the end that may change or begin a stop string."""
    unsettled = len(text) - len(text.rstrip(INCOMPLETE))
    for string in stop:
        for length in range(1, len(string)):
            if text.endswith(string[:length]):
                unsettled = max(unsettled, length)
    return unsettled
