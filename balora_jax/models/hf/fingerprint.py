"""The fingerprint of a model folder: its configuration and all bytes of its weights."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from balora_jax.models.hf.checkpoint import Checkpoint, resolve_folder

HashFiles = Callable[[Sequence[Path]], list[bytes]]


def hash_files(paths: Sequence[Path]) -> list[bytes]:
    """Hash the content of each file by SHA-256.

    Args:
      paths: the files.
    """
    return [_hash(path) for path in paths]


def _hash(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def fingerprint(
    source: str | Path, revision: str | None = None, hash_all: HashFiles = hash_files
) -> str:
    """Hash config.json and the weight files of a model.

    Args:
      source: a Hugging Face folder or a hub id.
      revision: the hub's branch, tag or commit.
      hash_all: hashes files; the processes of a run share that out.

    Returns:
      The SHA-256 hash, in hexadecimal. The folder's place does not count.

    Raises:
      BadInput: the folder cannot be used.
    """
    folder = resolve_folder(source, revision)
    weights = sorted({header.file for header in Checkpoint(folder).headers.values()})
    paths = [folder / "config.json", *weights]
    digest = hashlib.sha256()
    for path, content in zip(paths, hash_all(paths), strict=True):
        digest.update(f"{path.name} {content.hex()}\n".encode())
    return digest.hexdigest()
