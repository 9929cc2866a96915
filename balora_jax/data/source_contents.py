"""The content of a source: hashes of its files, local ones or those of a set of the hub."""

import hashlib
from pathlib import Path
from typing import Literal

from balora_jax.config import DataConfig
from balora_jax.data.sources import load_rows, local_files, reading, require_regular


def source_contents(
    config: DataConfig, split: Literal["train", "eval"]
) -> list[tuple[str, str]] | None:
    """Hash the files of a source.

    Args:
      config: as for `prepare`, with one source.
      split: as for `prepare`.

    Returns:
      (file name, SHA-256 hash in hexadecimal) of each file in the order of its rows; None if the
      rows are not in files.

    Raises:
      BadInput: the source does not exist or cannot be read.
    """
    source = config.train
    part = config.train_split
    if split == "eval" and config.eval_share is None:
        source = config.eval
        part = config.eval_split
    files = local_files(source, part)
    if files is None:
        # Of the hub's cache; the names of splits and subsets are parts of theirs.
        table = load_rows(source, subset=config.subset, split=part).rows
        files = [Path(file["filename"]) for file in table.cache_files]
    with reading(source):
        return [(file.name, _hash(file)) for file in files] or None


def _hash(file: Path) -> str:
    require_regular(file)
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
