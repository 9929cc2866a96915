"""Examples of next-token prediction in a folder: arrays of plain numbers, and a description."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from balora_jax.data.examples import Examples, Part
from balora_jax.data.growing import DTYPES, array_file

# Its first line is the hash of the rest, which is JSON.
DESCRIPTION = "description.json"
# What is stored beside the arrays.
NUMBERS = ("doubled_start", "truncated", "dropped_empty", "dropped_long")


class Damaged(ValueError):
    """A folder whose files are not those that were written; the message says how it is known."""


def describe(examples: Examples, folder: Path) -> None:
    """Complete a folder that holds the arrays of examples.

    Args:
      examples: from `prepare` with that folder.
      folder: their arrays' place.
    """
    names = [name for name in DTYPES if getattr(examples, name) is not None]
    for name in names:
        _sync(array_file(folder, name))
    description = {
        "hashes": {name: _hash(array_file(folder, name)) for name in names},
        "pad_id": examples.pad_id,
        "recognized": dict(examples.recognized),
        "parts": [part._asdict() for part in examples.parts],
        "weighted": examples.weighted,
        **{name: getattr(examples, name) for name in NUMBERS},
    }
    path = folder / DESCRIPTION
    text = json.dumps(description)
    path.write_text(f"{_hash_of(text)}\n{text}", encoding="utf-8")
    _sync(path)


def read_examples(folder: Path) -> Examples:
    """Read examples; their arrays are memory-mapped.

    Args:
      folder: completed by `describe`.

    Raises:
      Damaged: a file is missing or was changed.
      OSError: a file cannot be read.
    """
    try:
        own_hash, _, text = (folder / DESCRIPTION).read_text(encoding="utf-8").partition("\n")
        if own_hash != _hash_of(text):
            raise Damaged(f"{DESCRIPTION} is not as it was written")
        return _examples(folder, json.loads(text))
    except FileNotFoundError as error:
        raise Damaged(f"{Path(error.filename).name} is missing") from error
    except Damaged:
        raise
    # Of a file that others wrote.
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"{DESCRIPTION} is not as it was written") from error


def _examples(folder: Path, described: dict[str, Any]) -> Examples:
    arrays = {}
    for name, expected in described["hashes"].items():
        dtype = DTYPES[name]
        path = array_file(folder, name)
        if _hash(path) != expected:
            raise Damaged(f"{path.name} is not as it was written")
        arrays[name] = np.memmap(path, dtype, "r")
    return Examples(
        **arrays,
        pad_id=described["pad_id"],
        recognized=described["recognized"],
        parts=tuple(Part(**part) for part in described["parts"]),
        weighted=described["weighted"],
        **{name: described[name] for name in NUMBERS},
    )


def _hash_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _hash(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    """Wait until a file is on the disk: after a loss of power it may be empty otherwise."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
