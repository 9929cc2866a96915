"""The files of a Hugging Face folder: those that are read, where their links may lead, and JSON."""

import json
import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

from balora_jax.errors import BadInput, listed, reason_of, shown

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "spm.model",
    "sentencepiece.bpe.model",
    "tekken.json",
    "chat_template.jinja",
    "chat_template.json",
)
# The files of weights that Hugging Face's libraries and PEFT write.
WEIGHTS = re.compile(
    r"(adapter_model|model(-\d{5}-of-\d{5})?)\.safetensors|model\.safetensors\.index\.json"
)
CHAT_TEMPLATES = "additional_chat_templates"
# Beside weights and config.json, the files that a saved model takes over from its source.
COPIED_FILES = ("generation_config.json", *TOKENIZER_FILES)

MOST_JSON_BYTES = 64 * 2**20


def has_file(folder: Path, name: str) -> bool:
    """Return True if a folder has an entry of a name, even a link that leads nowhere.

    Args:
      folder: a Hugging Face folder.
      name: the entry's name.
    """
    return os.path.lexists(folder / name)


def regular_file(folder: Path, name: str) -> Path:
    """Return the path of a file of a folder.

    The hub's cache links a model's files to the folder `blobs` of the same repository; other links
    must stay in the folder.

    Args:
      folder: a Hugging Face folder.
      name: the file's name, possibly in a folder inside.

    Returns:
      The path, through the link if it is one.

    Raises:
      BadInput: it is missing, no regular file, or a link that leaves the folder.
    """
    path = folder / name
    if not has_file(folder, name):
        raise BadInput(f"{folder} has no {name}; accepted: a Hugging Face model folder")
    try:
        resolved = path.resolve(strict=True)
        root = folder.resolve(strict=True)
        is_file = resolved.is_file()
    except (OSError, RuntimeError) as error:
        raise BadInput(
            f"{path} cannot be looked up ({reason_of(error)}); accepted: a regular file"
        ) from error
    if not is_file:
        raise BadInput(f"{path} is no regular file; accepted: a regular file")
    allowed = [root]
    if root.parent.name == "snapshots":
        allowed.append((root.parent.parent / "blobs").resolve())
    if not any(resolved.is_relative_to(place) for place in allowed):
        raise BadInput(
            f"{path} is a link that leaves the folder; accepted: a file in the folder, or a link "
            "of the hub's cache"
        )
    return path


def copied_files(folder: Path) -> list[str]:
    """List the files that a saved model takes over from its source, each of them checked.

    Args:
      folder: a Hugging Face folder.

    Returns:
      Their names, relative to the folder.

    Raises:
      BadInput: one of them is no regular file, or a link that leaves the folder.
    """
    names = [name for name in COPIED_FILES if has_file(folder, name)]
    templates = sorted((folder / CHAT_TEMPLATES).glob("*.jinja"))
    names += [f"{CHAT_TEMPLATES}/{path.name}" for path in templates]
    for name in names:
        regular_file(folder, name)
    return names


def is_model_file(path: Path) -> bool:
    """Return True if an entry of a folder is of a saved model, by its name and kind.

    Args:
      path: a file or folder in a Hugging Face folder.
    """
    if path.name == CHAT_TEMPLATES:
        return path.is_dir() and all(entry.suffix == ".jinja" for entry in path.iterdir())
    names = ("config.json", *COPIED_FILES)
    return path.is_file() and (path.name in names or bool(WEIGHTS.fullmatch(path.name)))


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file of a Hugging Face folder.

    Args:
      path: the file.

    Returns:
      The object.

    Raises:
      BadInput: there is no such file in the folder, or it holds no JSON object.
    """
    regular_file(path.parent, path.name)
    try:
        with path.open("rb") as file:
            content = file.read(MOST_JSON_BYTES + 1)
        if len(content) > MOST_JSON_BYTES:
            raise BadInput(f"{path} has more than {MOST_JSON_BYTES} bytes; accepted: a JSON object")
        value = json.loads(content.decode("utf-8"))
    except BadInput:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(
            f"{path} is not valid JSON ({reason_of(error)}); accepted: a JSON object"
        ) from error
    if not isinstance(value, dict):
        raise BadInput(
            f"{path} does not hold a JSON object but {shown(value)}; accepted: a JSON object"
        )
    return value


def read_weight_map(index: Path, suffix: str) -> dict[str, str]:
    """Read the index of weights that are in several files.

    Args:
      index: the file.
      suffix: of the files of weights, such as .safetensors.

    Returns:
      {tensor's name: name of its file}; every file is in the index's folder, if it exists.

    Raises:
      BadInput: it is no index, or names other files.
    """
    weight_map = read_json(index).get("weight_map")
    is_map = isinstance(weight_map, dict) and weight_map
    if not is_map or not all(isinstance(file, str) for file in weight_map.values()):
        raise BadInput(
            f"{index} has no weight_map of tensor names to files, but {shown(weight_map)}; "
            "accepted: an object of names and files"
        )
    outside = sorted({file for file in weight_map.values() if not _is_plain(file, suffix)})
    if outside:
        raise BadInput(
            f"{index} names {listed(outside)}; accepted: {suffix} files in the same folder"
        )
    return weight_map


def _is_plain(file: str, suffix: str) -> bool:
    """Return True if a name has no folder and ends in the suffix."""
    has_folder = PurePosixPath(file).name != file or "\\" in file
    return file.endswith(suffix) and not has_folder and file.isprintable()
