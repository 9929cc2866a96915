"""Hugging Face folders on disk: their location, their safetensors files, and single tensors.

Headers are read first and tensors one at a time, so a mismatch is found before anything is loaded
and a load never holds the model twice.
"""

import json
import math
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from balora_jax.errors import BadInput, listed, reason_of
from balora_jax.models.hf.files import has_file, read_weight_map, regular_file

INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"
DOWNLOADED_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
PICKLE_FILES = ("*.bin", "*.pt", "*.pth", "*.ckpt")

# Element types of weights. safetensors reads bfloat16 by the name that ml_dtypes registers.
FLOATS = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}


@dataclass(frozen=True)
class DeferredTensor:
    """A tensor to write, whose array is made only when it is written.

    Attributes:
      name: Hugging Face's name.
      shape: as stored.
      dtype: as stored.
      make: returns the array.
    """

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
    """The description of a stored tensor.

    Attributes:
      file: the file that holds it.
      shape: as stored.
      dtype: safetensors' name of the element type.
    """

    file: Path
    shape: tuple[int, ...]
    dtype: str


def resolve_folder(source: str | Path, revision: str | None = None) -> Path:
    """Find a model's local folder, or download it from the hub.

    Args:
      source: a folder's path or a hub id.
      revision: the hub's branch, tag or commit.

    Returns:
      The folder. Of a hub's model, only configuration, tokenizer and safetensors are downloaded.

    Raises:
      BadInput: `source` is not a folder, and the hub cannot provide it.
    """
    try:
        path = Path(source).expanduser()
        if path.is_dir():
            return path
        if str(source).startswith(LOCAL):
            raise FileNotFoundError(f"there is no such folder, seen from {Path.cwd()}")
        folder = snapshot_download(str(source), revision=revision, allow_patterns=DOWNLOADED_FILES)
    except Exception as error:  # the hub's client raises those of its libraries, too
        lines = str(error).strip().splitlines()
        reason = lines[0][:300] if lines else type(error).__name__
        raise BadInput(
            f"{listed([str(source)])} is neither a folder nor a model the hub could give "
            f"({reason}); accepted: a Hugging Face model folder or a hub id"
        ) from error
    return Path(folder)


# The beginnings of paths, which no hub id has.
LOCAL = ("/", "./", "../", "~")


class Checkpoint:
    """The tensors of a folder's safetensors files, by name.

    Attributes:
      folder: the folder.
      headers: {name: Header} of all stored tensors.
    """

    def __init__(self, folder: Path) -> None:
        """Read the headers of all files.

        Args:
          folder: a Hugging Face folder.

        Raises:
          BadInput: the folder has no safetensors, or its files are damaged or incomplete.
        """
        self.folder = folder
        self.headers: dict[str, Header] = {}
        self._open_files: dict[Path, safe_open] = {}

        # As in transformers, a single file takes precedence over an index.
        if has_file(folder, INDEX_FILE) and not has_file(folder, SINGLE_FILE):
            index = folder / INDEX_FILE
            file_of = _indexed_files(index)
            for file in sorted(set(file_of.values())):
                self.headers.update(self._read_headers(file))
            _check_index(index, file_of, self.headers)
        else:
            self.headers.update(self._read_headers(_single_file(folder)))

    def require_floats(self, name: str) -> None:
        """Refuse a tensor whose element type is not a floating-point type that can be read.

        Args:
          name: the tensor's name.

        Raises:
          BadInput: its element type is another one.
        """
        header = self.headers[name]
        if header.dtype not in FLOATS:
            accepted = ", ".join(FLOATS)
            raise BadInput(
                f"{listed([name])} in {header.file} is stored as {header.dtype}; "
                f"accepted: {accepted}"
            )

    def read(self, name: str, rows: slice = slice(None)) -> np.ndarray:
        """Read one tensor, or some rows of it, as it is stored.

        Args:
          name: the tensor's name, of a floating-point type.
          rows: along its first axis; no other part of the file is read.

        Returns:
          The tensor or the part.
        """
        file = self._open(self.headers[name].file)
        if rows == slice(None):
            return file.get_tensor(name)
        return file.get_slice(name)[rows]

    def release(self) -> None:
        """Give back the memory that the files are mapped to; `read` opens them again."""
        self._open_files.clear()

    def _open(self, file: Path) -> safe_open:
        if file not in self._open_files:
            self._open_files[file] = safe_open(file, framework="numpy")
        return self._open_files[file]

    def _read_headers(self, file: Path) -> dict[str, Header]:
        try:
            open_file = self._open(file)
        except (SafetensorError, OSError) as error:
            raise BadInput(
                f"{file} is not a whole safetensors file: truncated or damaged "
                f"({reason_of(error)}); accepted: a file as safetensors writes it"
            ) from error
        headers = {}
        names = list(open_file.keys())
        for name in names:
            tensor = open_file.get_slice(name)
            headers[name] = Header(file, tuple(tensor.get_shape()), tensor.get_dtype())
        return headers


def _single_file(folder: Path) -> Path:
    if has_file(folder, SINGLE_FILE):
        return regular_file(folder, SINGLE_FILE)
    pickled = sorted(path.name for pattern in PICKLE_FILES for path in folder.glob(pattern))
    if pickled:
        # Of a model's own files the command takes the folder, of others one file.
        is_model = any(name.startswith("pytorch_model") for name in pickled)
        source = shlex.quote(str(folder if is_model else folder / pickled[0]))
        raise BadInput(
            f"{folder} has {listed(pickled)} but no {SINGLE_FILE}; pickled weights are refused "
            "because loading them can run any code; accepted: weights converted to safetensors, "
            f"by: balora convert {source} --out NEW_FOLDER"
        )
    raise BadInput(
        f"{folder} has neither {SINGLE_FILE} nor {INDEX_FILE}; accepted: a folder with safetensors "
        "weights"
    )


def _indexed_files(index: Path) -> dict[str, Path]:
    """Read {tensor name: file} from an index; every file is in its folder and exists."""
    weight_map = read_weight_map(index, ".safetensors")
    files = set(weight_map.values())
    absent = sorted(file for file in files if not has_file(index.parent, file))
    if absent:
        raise BadInput(
            f"{index} names {listed(absent)}, which the folder does not have; accepted: all files "
            "of the model"
        )
    for file in files:
        regular_file(index.parent, file)
    return {name: index.parent / file for name, file in weight_map.items()}


def _check_index(index: Path, file_of: dict[str, Path], headers: dict[str, Header]) -> None:
    misplaced = sorted(
        name for name, file in file_of.items() if name not in headers or headers[name].file != file
    )
    if misplaced:
        raise BadInput(
            f"{index} places {listed(misplaced)} in files that do not hold them; accepted: the "
            "file of each tensor"
        )


def write_checkpoint(folder: Path, tensors: Sequence[DeferredTensor], max_bytes: int) -> None:
    """Write tensors into a folder, in place of those that are there.

    Args:
      folder: an existing folder.
      tensors: in order.
      max_bytes: the size above which they are split over several files with an index.
    """
    for old in (*folder.glob("model*.safetensors"), folder / INDEX_FILE):
        old.unlink(missing_ok=True)

    shards = _shards(tensors, max_bytes)
    files = _file_names(len(shards))
    weight_map = {}
    for file, shard in zip(files, shards, strict=True):
        _write_shard(folder / file, shard)
        weight_map.update(dict.fromkeys((tensor.name for tensor in shard), file))

    if len(shards) > 1:
        total_size = sum(tensor.size for tensor in tensors)
        index = {"metadata": {"total_size": total_size}, "weight_map": weight_map}
        (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _write_shard(path: Path, tensors: Sequence[DeferredTensor]) -> None:
    """Write the tensors of one file, which are on the host until this function ends."""
    arrays = {tensor.name: tensor.make() for tensor in tensors}
    save_file(arrays, path, metadata={"format": "pt"})


def _file_names(count: int) -> list[str]:
    """Name the files of a checkpoint of that many, as Hugging Face does."""
    if count == 1:
        return [SINGLE_FILE]
    return [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]


def _shards(tensors: Sequence[DeferredTensor], max_bytes: int) -> list[list[DeferredTensor]]:
    """Split tensors, in order, into groups of at most `max_bytes` or of one tensor."""
    shards: list[list[DeferredTensor]] = [[]]
    remaining = max_bytes
    for tensor in tensors:
        if tensor.size > remaining and shards[-1]:
            shards.append([])
            remaining = max_bytes
        shards[-1].append(tensor)
        remaining -= tensor.size
    return shards
