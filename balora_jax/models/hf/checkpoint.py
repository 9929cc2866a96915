"""Hugging Face folders on disk: where one is, what its safetensors files hold, reading one tensor.

Headers are read first and tensors one at a time, so a mismatch costs nothing and a load never holds the model twice.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import ml_dtypes
import numpy as np
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from balora_jax.errors import BadInput

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
TOKENIZER_FILES = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt", "*.model",
                   "chat_template*")  # fmt: skip
WANTED = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
# What a weight may be stored as. safetensors gives bfloat16 to numpy by the name that ml_dtypes registers.
FLOATS = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}


@dataclass(frozen=True)
class Part:
    """A tensor to be written; its array is made only when its turn comes."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    make: Callable[[], np.ndarray]

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Header:
    """What a file says of one tensor before it is read."""

    file: Path
    shape: tuple[int, ...]
    dtype: str


def resolve_folder(source: str | Path, revision: str | None = None) -> Path:
    """The local folder of a model: the folder named, or the hub's snapshot of that id.

    Args:
        source: a folder's path or a hub id.
        revision: the hub's branch, tag or commit.

    Returns:
        The folder. Of a hub's model only configuration, tokenizer and safetensors are fetched.

    Raises:
        BadInput: it is neither a folder nor to be had from the hub.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    try:
        return Path(snapshot_download(str(source), revision=revision, allow_patterns=WANTED))
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BadInput(
            f"{source!s} is neither a folder nor a model the hub could give ({reason})"
        ) from error


def read_json(path: Path) -> dict:
    """A JSON file's object.

    Raises:
        BadInput: it is not there, or is not a JSON object.
    """
    if not path.is_file():
        raise BadInput(f"{path.parent} has no {path.name}; accepted: a Hugging Face model folder")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadInput(f"{path} is not valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise BadInput(f"{path} does not hold a JSON object")
    return value


class Checkpoint:
    """The tensors of a folder's safetensors files, by name.

    Attributes:
        headers: {name: Header} of everything stored.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open: dict[Path, safe_open] = {}
        single, index = folder / SINGLE, folder / INDEX
        # As transformers does: the single file, if it is there, whatever an index says.
        listed = _listed_files(index) if index.is_file() and not single.is_file() else None
        files = [_single_file(folder)] if listed is None else sorted(set(listed.values()))
        self.headers: dict[str, Header] = {}
        for file in files:
            self.headers.update(self._read_headers(file))
        if listed is not None:
            _check_index(index, listed, self.headers)

    def read(self, name: str) -> np.ndarray:
        """One tensor as it is stored.

        Raises:
            BadInput: its type is not a floating-point one.
        """
        header = self.headers[name]
        if header.dtype not in FLOATS:
            raise BadInput(
                f"{name} in {header.file} is stored as {header.dtype}; accepted: {', '.join(FLOATS)}"
            )
        return self._open[header.file].get_tensor(name)

    def _read_headers(self, file: Path) -> dict[str, Header]:
        try:
            handle = safe_open(file, framework="numpy")
        except (SafetensorError, OSError) as error:
            raise BadInput(
                f"{file} is not a whole safetensors file: truncated or damaged ({error})"
            ) from error
        self._open[file] = handle
        names = list(handle.keys())
        slices = [handle.get_slice(name) for name in names]
        headers = [Header(file, tuple(part.get_shape()), part.get_dtype()) for part in slices]
        return dict(zip(names, headers, strict=True))


def _single_file(folder: Path) -> Path:
    if (folder / SINGLE).is_file():
        return folder / SINGLE
    pickled = sorted(
        path.name for kind in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in folder.glob(kind)
    )
    if pickled:
        raise BadInput(
            f"{folder} has {', '.join(pickled)} but no {SINGLE}; pickled weights are refused because loading them can "
            "run any code, so convert them to safetensors first"
        )
    raise BadInput(
        f"{folder} has neither {SINGLE} nor {INDEX}; accepted: a folder with safetensors weights"
    )


def _listed_files(index: Path) -> dict[str, Path]:
    """{tensor name: file} as the index has it; every file inside the folder and there."""
    listed = read_json(index).get("weight_map")
    if not isinstance(listed, dict) or not all(isinstance(file, str) for file in listed.values()):
        raise BadInput(f"{index} has no weight_map of tensor names to files")
    files = set(listed.values())
    outside = sorted(
        f
        for f in files
        if PurePosixPath(f).name != f or "\\" in f or not f.endswith(".safetensors")
    )
    if outside:
        raise BadInput(
            f"{index} names {', '.join(outside)}; accepted: safetensors files in the same folder"
        )
    absent = sorted(file for file in files if not (index.parent / file).is_file())
    if absent:
        raise BadInput(f"{index} names {', '.join(absent)}, which the folder does not have")
    return {name: index.parent / file for name, file in listed.items()}


def _check_index(index: Path, listed: dict[str, Path], headers: dict[str, Header]) -> None:
    wrong = sorted(
        name for name, file in listed.items() if name not in headers or headers[name].file != file
    )
    if wrong:
        raise BadInput(f"{index} places {', '.join(wrong)} in files that do not hold them")


def write_checkpoint(folder: Path, parts: list[Part], max_bytes: int) -> None:
    """Writes tensors into a folder, in place of those that are there.

    Args:
        folder: an existing folder.
        parts: the tensors, in order.
        max_bytes: more than this is split over several files with an index.
    """
    shards = _shards(parts, max_bytes)
    count = len(shards)
    files = (
        [f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]
        if count > 1
        else [SINGLE]
    )
    for old in (*folder.glob("model*.safetensors"), folder / INDEX):
        old.unlink(missing_ok=True)
    for file, shard in zip(files, shards, strict=True):
        save_file(
            {part.name: part.make() for part in shard}, folder / file, metadata={"format": "pt"}
        )
    if count > 1:
        placed = {
            part.name: file for file, shard in zip(files, shards, strict=True) for part in shard
        }
        index = {"metadata": {"total_size": sum(part.size for part in parts)}, "weight_map": placed}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _shards(parts: list[Part], max_bytes: int) -> list[list[Part]]:
    shards: list[list[Part]] = [[]]
    room = max_bytes
    for part in parts:
        if part.size > room and shards[-1]:
            shards.append([])
            room = max_bytes
        shards[-1].append(part)
        room -= part.size
    return shards
