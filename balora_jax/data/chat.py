"""The tokenizer's chat template: a program of the checkpoint, run within bounds.

The template runs in jinja's sandbox, which gives it no files and no modules. Here its time, its
memory and the length of its text are bounded too.
"""

import contextlib
import os
import resource
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from balora_jax.data.tokenizer import token_ids
from balora_jax.errors import BadInput, first_line

# Stands for a message in a rendered chat.
SENTINEL = "BALORA0ANSWER0HERE"
# Seconds of computation for one text, which takes milliseconds.
MOST_SECONDS = 10.0
# Bytes that a template may take beyond what the process has.
MOST_MEMORY = 2**32
# Characters beside the messages'.
MOST_CHARACTERS = 10**7
ACCEPTED = "accepted: a chat template that writes each message once, or data.template alpaca"

Messages = list[dict[str, Any]]


class _TooLong(Exception):
    """A template that does not come to its end."""


def check_chat_template(tokenizer: Any) -> None:
    """Check that the template writes the user's message into the prompt.

    Args:
      tokenizer: a Hugging Face tokenizer.

    Raises:
      BadInput: there is no template, it fails, or it leaves out the message.
    """
    template = getattr(tokenizer, "chat_template", None)
    if not template:
        raise BadInput(
            "data.template is 'chat' but the tokenizer has no chat template; "
            "accepted: a tokenizer that has one (model.tokenizer, a folder with its files and "
            "chat_template.jinja), alpaca or a text"
        )
    if not isinstance(template, str | dict):
        raise BadInput(
            f"the tokenizer's chat template is a {type(template).__name__}; accepted: text in jinja"
        )
    prompt = render_prompt(tokenizer, SENTINEL)
    if SENTINEL not in prompt:
        raise BadInput(f"the tokenizer's chat template leaves out the user's message; {ACCEPTED}")


def render_prompt(tokenizer: Any, content: str) -> str:
    """Write the prompt of a chat with one message.

    Args:
      tokenizer: as for `check_chat_template`.
      content: the user's message.

    Raises:
      BadInput: the template fails, does not end, or writes no text.
    """
    messages = [{"role": "user", "content": content}]
    return render(tokenizer, messages, add_generation_prompt=True)


def end_of_turn(tokenizer: Any) -> int:
    """Return the special token that the chat template writes after an answer, or EOS.

    Gemma's, for example, is <end_of_turn>.

    Args:
      tokenizer: as for `check_chat_template`.

    Raises:
      BadInput: as `render_prompt`.
    """
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": SENTINEL}]
    _, found, after = render(tokenizer, turns).rpartition(SENTINEL)
    special = {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
    special |= set(tokenizer.all_special_ids)
    text = after if found else ""
    ids = token_ids(tokenizer, [text], add_special_tokens=False)["input_ids"][0]
    return next((id for id in ids if id in special), tokenizer.eos_token_id)


def render(tokenizer: Any, messages: Messages, **options: Any) -> str:
    """Write a chat by the tokenizer's template.

    Args:
      tokenizer: a Hugging Face tokenizer with a chat template.
      messages: the turns.
      **options: of `apply_chat_template`.

    Raises:
      BadInput: the template fails, does not end, or writes no text.
    """
    try:
        with _bounded():
            text = tokenizer.apply_chat_template(messages, tokenize=False, **options)
    # A template can raise anything, from a division by zero to what it raises itself.
    except Exception as error:
        raise BadInput(
            f"the tokenizer's chat template cannot be used: {first_line(error)}; {ACCEPTED}"
        ) from error
    if not isinstance(text, str) or not text:
        raise BadInput(f"the tokenizer's chat template writes no text; {ACCEPTED}")
    given = sum(len(message["content"]) for message in messages)
    if len(text) > given + MOST_CHARACTERS:
        raise BadInput(
            f"the tokenizer's chat template writes {len(text):,} characters; accepted: at most "
            f"{MOST_CHARACTERS:,} beside the messages"
        )
    if not _is_unicode(text):
        raise BadInput(
            "the tokenizer's chat template writes half of a character in UTF-16; "
            "accepted: whole characters"
        )
    return text


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


@contextlib.contextmanager
def _bounded() -> Iterator[None]:
    """Bound computation and memory; only the main thread can be interrupted."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with _bounded_memory(), _bounded_time():
        yield


@contextlib.contextmanager
def _bounded_time() -> Iterator[None]:
    def stop(signal_number: int, frame: Any) -> None:
        raise _TooLong(f"it takes more than {MOST_SECONDS:g} seconds")

    before = signal.signal(signal.SIGVTALRM, stop)
    # And repeatedly then: jinja's compiler swallows exceptions in expressions of constants.
    signal.setitimer(signal.ITIMER_VIRTUAL, MOST_SECONDS, 0.1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


@contextlib.contextmanager
def _bounded_memory() -> Iterator[None]:
    """Lower the limit of the address space, where the system tells how much is in use."""
    statistics = Path("/proc/self/statm")
    if not statistics.is_file():
        yield
        return
    used = int(statistics.read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    bounds = [used + MOST_MEMORY, *(limit for limit in (soft, hard) if limit >= 0)]
    resource.setrlimit(resource.RLIMIT_AS, (min(bounds), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
