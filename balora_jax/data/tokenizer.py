"""The tokenizer of a model, from files alone: no code of the checkpoint is run."""

import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from balora_jax.data.batch import DTYPES
from balora_jax.data.sources import HUB_NAME
from balora_jax.errors import BadInput, first_line, listed, reason_of, shown

SENTENCEPIECE = ("tokenizer.model", "spiece.model", "spm.model", "sentencepiece.bpe.model")
FILES = ("tokenizer.json", *SENTENCEPIECE, "vocab.json", "vocab.txt", "tekken.json")
# Endings of the files that a tokenizer may be read from.
READ_SUFFIXES = (".json", ".txt", ".model", ".jinja", ".tiktoken")
# The largest vocabularies take some 40 MB.
LARGEST_FILE = 2**29
LARGEST_ID = np.iinfo(DTYPES.input_ids).max
ACCEPTED = "accepted: a folder that save_pretrained wrote, or a hub id"


def load_tokenizer(source: str, revision: str | None = None) -> Any:
    """Load a Hugging Face tokenizer.

    Args:
      source: a folder with tokenizer files, or a hub id. Files may be links, as in the hub's cache.
      revision: a branch, tag or commit on the hub.

    Returns:
      The tokenizer, with a pad token (EOS where it had none) and padding on the right.

    Raises:
      BadInput: there are no tokenizer files, or they cannot be read.
    """
    from transformers import AutoTokenizer

    name = _find(source)
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        tokenizer.padding_side = "right"
        ids = list(tokenizer.get_vocab().values())
        special_ids = [tokenizer.eos_token_id, tokenizer.pad_token_id]
    # The tokenizers library raises plain Exception for a broken file, or panics.
    except BaseException as error:
        _raise_unless_of_library(error)
        raise BadInput(
            f"the tokenizer of {source} cannot be loaded: {first_line(error)}; {ACCEPTED}"
        ) from error
    if not ids:
        raise BadInput(f"the tokenizer of {source} has no tokens; accepted: at least one")
    for token in (*ids, *special_ids):
        if token is not None and not (isinstance(token, int) and 0 <= token <= LARGEST_ID):
            raise BadInput(
                f"the tokenizer of {source} has a token with the id {shown(token)}; "
                f"accepted: ids from 0 to {LARGEST_ID}"
            )
    return tokenizer


def token_ids(tokenizer: Any, *texts: Sequence[str], **options: Any) -> dict[str, list[list[int]]]:
    """Tokenize texts, or pairs of texts.

    Args:
      tokenizer: a Hugging Face tokenizer.
      *texts: first texts, and second texts where there are pairs.
      **options: as the tokenizer takes them.

    Returns:
      `input_ids`, and `token_type_ids` where the tokenizer makes them, for each text.

    Raises:
      BadInput: the tokenizer fails, as one that lacks a token for unknown words does.
    """
    try:
        # verbose=False: no warning of texts longer than the model's positions, which are cut here.
        return tokenizer(*texts, return_attention_mask=False, verbose=False, **options)
    except BaseException as error:
        _raise_unless_of_library(error)
        raise BadInput(
            f"the tokenizer fails on a text: {first_line(error)}; accepted: a tokenizer with "
            "tokens for every text"
        ) from error


def _raise_unless_of_library(error: BaseException) -> None:
    """Raise an exception again unless it is an Exception or a panic of the tokenizers library."""
    is_panic = type(error).__name__ == "PanicException"
    if not isinstance(error, Exception) and not is_panic:
        raise error


def _find(source: str) -> str:
    """Return the folder or the hub id for transformers, and check the files of a folder."""
    try:
        folder = Path(source).expanduser()
        if folder.is_dir():
            _check_files(source, folder)
            return str(folder)
    # A name of a user that does not exist, too long, with a zero byte, or without permission.
    except (OSError, RuntimeError) as error:
        raise BadInput(
            f"the tokenizer folder {shown(source)} cannot be looked up ({reason_of(error)}); "
            f"{ACCEPTED}"
        ) from error
    if not HUB_NAME.fullmatch(source):
        raise BadInput(
            f"the tokenizer folder {listed([source])} does not exist; "
            "accepted: a folder, or a hub id"
        )
    return source


def _check_files(source: str, folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        if path.suffix not in READ_SUFFIXES or path.is_dir():
            continue
        try:
            status = path.stat()
        except FileNotFoundError:
            raise BadInput(
                f"{path} is a link to nothing; accepted: regular files, or links to them"
            ) from None
        # A pipe waits for its writer, and a device may have no end.
        if not stat.S_ISREG(status.st_mode):
            raise BadInput(f"{path} is no regular file; accepted: regular files, or links to them")
        if status.st_size > LARGEST_FILE:
            raise BadInput(
                f"{path} has {status.st_size:,} bytes; accepted: tokenizer files of at most "
                f"{LARGEST_FILE:,}"
            )
    names = [name for name in FILES if (folder / name).is_file()]
    if not names:
        raise BadInput(
            f"{source} has no tokenizer files; accepted: a folder with one of {', '.join(FILES)}"
        )
    if names[0] in SENTENCEPIECE:
        _check_sentencepiece(folder / names[0])


def _check_sentencepiece(path: Path) -> None:
    """Refuse a file that transformers would take for another kind of tokenizer."""
    from sentencepiece import SentencePieceProcessor

    try:
        SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        raise BadInput(
            f"{path} is no sentencepiece model, or damaged, and there is no tokenizer.json; "
            "accepted: either of them"
        ) from error
