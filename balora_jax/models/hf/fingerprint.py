"""The fingerprint of a model folder: its configuration and all bytes of its weights."""

import hashlib
from pathlib import Path

from balora_jax.models.hf.checkpoint import Checkpoint, resolve_folder


def fingerprint(source: str | Path, revision: str | None = None) -> str:
    """Hash config.json and the weight files of a model.

    Args:
      source: a Hugging Face folder or a hub id.
      revision: the hub's branch, tag or commit.

    Returns:
      The SHA-256 hash, in hexadecimal. The folder's place does not count.

    Raises:
      BadInput: the folder cannot be used.
    """
    folder = resolve_folder(source, revision)
    files = {header.file for header in Checkpoint(folder).headers.values()}
    digest = hashlib.sha256()
    for path in (folder / "config.json", *sorted(files)):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{path.name} {content}\n".encode())
    return digest.hexdigest()
