"""Fingerprints of tokenized sets and of tokenizers: equal for equal tokens in the same order."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from balora_jax.data.blocks import blocks
from balora_jax.data.examples import Examples

# The arrays of a set that its file and the tokenizer decide; the teacher's are the model's.
ARRAYS = ("tokens", "starts", "prompt_lengths", "counted", "token_type_ids", "labels", "answers")


def fingerprint(sets: Sequence[Examples]) -> str:
    """Hash the contents of data sets.

    Args:
      sets: tokenized sets; their order counts.

    Returns:
      The SHA-256 hash, in hexadecimal.
    """
    digest = hashlib.sha256()
    for examples in sets:
        digest.update(f"set, padded with {examples.pad_id}\n".encode())
        for name in ARRAYS:
            array = getattr(examples, name)
            if array is None:
                continue
            # The shape tells where the array's bytes end.
            digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
            for block in blocks(array) if array.size else ():
                digest.update(memoryview(np.ascontiguousarray(block)).cast("B"))
    return digest.hexdigest()


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """Hash what decides a tokenizer's tokens.

    Args:
      tokenizer: a Hugging Face tokenizer.

    Returns:
      The SHA-256 hash, in hexadecimal.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        described = sorted(tokenizer.get_vocab().items())
    else:
        described = json.loads(backend.to_str())
        # Those of the last call: every call sets them anew.
        del described["truncation"], described["padding"]
    template = getattr(tokenizer, "chat_template", None)
    text = repr((described, template, tokenizer.eos_token_id, tokenizer.pad_token_id))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
