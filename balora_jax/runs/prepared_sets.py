"""Tokenized sets that later starts read: a folder each among the user's caches.

A folder's name is the hash of all that decides the tokens, among it the content of the files. It is
written beside its place and renamed when it is whole.
"""

import contextlib
import hashlib
import importlib.metadata
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any, Literal

from balora_jax import data
from balora_jax.config import DataConfig
from balora_jax.data import Examples, stored_examples
from balora_jax.errors import reason_of
from balora_jax.runs.caches import cache_folder, discard_oldest, make_private
from balora_jax.training.replacing import replacing

# Raised by whoever changes what `data.prepare` makes of the same files and options.
FORMAT = 1
# Bytes of all sets; those not used for longest give way.
MOST_BYTES = 50 * 2**30
# Of other versions the tokens may differ.
LIBRARIES = ("transformers", "tokenizers")


def prepare_set(
    config: DataConfig,
    tokenizer: Any,
    split: Literal["train", "eval"],
    notify: Callable[[str], None],
) -> Examples:
    """Load and tokenize a data set, or read it as it was made before.

    Args:
      config: as for `data.prepare`.
      tokenizer: as for `data.prepare`.
      split: as for `data.prepare`.
      notify: called with a sentence if the cache cannot be used, or is damaged.

    Returns:
      The same examples either way.

    Raises:
      BadInput: as `data.prepare`.
    """
    key = _key(config, tokenizer, split) if config.cache else None
    if key is None:
        return data.prepare(config, tokenizer, split)
    try:
        folder = cache_folder("tokens") / key
        found = _find(folder, notify)
        if found is not None:
            return found
        make_private(folder.parent)
        with replacing(folder) as beside:
            examples = data.prepare(config, tokenizer, split, beside)
            stored_examples.describe(examples, beside)
        discard_oldest(folder.parent, MOST_BYTES)
        return stored_examples.read_examples(folder)
    except OSError as error:
        notify(
            f"tokenized sets are not kept: {reason_of(error)}; BALORA_CACHE names another folder, "
            "and data.cache false keeps none"
        )
    return data.prepare(config, tokenizer, split)


def _find(folder: pathlib.Path, notify: Callable[[str], None]) -> Examples | None:
    """Read the set of a folder; None if there is none, or a damaged one."""
    if not folder.exists():
        return None
    try:
        examples = stored_examples.read_examples(folder)
    except stored_examples.Damaged as error:
        notify(f"the tokenized set in {folder} is damaged ({error}): it is made again")
        return None
    # It was used now; a folder of others stays as it is.
    with contextlib.suppress(OSError):
        os.utime(folder)
    return examples


def _key(config: DataConfig, tokenizer: Any, split: Literal["train", "eval"]) -> str | None:
    """Hash all that decides the examples; None if that cannot be known."""
    # Of others, not all that decides the tokens is known.
    if not tokenizer.is_fast:
        return None
    sources = [config] if split == "eval" and config.eval_share is None else config.sources
    contents = [data.source_contents(source, split) for source in sources]
    if None in contents:
        return None
    decisive = {
        "format": FORMAT,
        "libraries": {name: importlib.metadata.version(name) for name in LIBRARIES},
        "tokenizer": data.tokenizer_fingerprint(tokenizer),
        "bos": tokenizer.bos_token_id,
        "split": split,
        "sources": [
            {"contents": content, **_options(source, split)}
            for content, source in zip(contents, sources, strict=True)
        ],
        "names": config.source_names if len(sources) > 1 else None,
        "weights": config.weights if split == "train" else None,
    }
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def _options(config: DataConfig, split: Literal["train", "eval"]) -> dict[str, Any]:
    """The options that decide what becomes of a source's rows."""
    names = ["fields", "template", "loss_on", "max_length", "eval_share"]
    # A set of data.eval has its own limit; those of data.train are held out under either.
    if split == "train" or config.eval_share is not None:
        names.append("limit")
    if split == "eval":
        names.append("eval_limit")
    return {name: getattr(config, name) for name in names}
