"""Weights that PyTorch has pickled, read as tensors and nothing else, by PyTorch's own reader.

A pickle is a program. `torch.load(weights_only=True)` runs only the instructions that make tensors,
and refuses every other one; nothing here reads a pickle otherwise.
"""

import importlib.metadata
import importlib.util
import pickle
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from transformers import CONFIG_MAPPING, AutoConfig

from balora_jax.errors import BadInput, listed, reason_of, shown
from balora_jax.models.hf.checkpoint import DeferredTensor
from balora_jax.models.hf.files import has_file, read_weight_map, regular_file

SINGLE_FILE = "pytorch_model.bin"
INDEX_FILE = "pytorch_model.bin.index.json"
SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")
METADATA = "__metadata__"
# Before it, weights_only could be led to run code (CVE-2025-32434).
OLDEST_TORCH = (2, 6)
# The names of heads that may be tied to an embedding.
HEAD = re.compile(r"(^|\.)(lm_head|cls|decoder)\.")
# PyTorch's element types that safetensors files here may have, by name.
DTYPES = {
    "float64": np.float64,
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "int64": np.int64,
    "int32": np.int32,
    "int16": np.int16,
    "int8": np.int8,
    "uint8": np.uint8,
    "bool": np.bool_,
}


def require_torch() -> None:
    """Raise BadInput if PyTorch is not installed, or too old to read pickles safely."""
    accepted = 'accepted: pip install "balora-jax[convert]"'
    if importlib.util.find_spec("torch") is None:
        raise BadInput(f"pickled weights are read by PyTorch, which is not installed; {accepted}")
    version = importlib.metadata.version("torch")
    if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < OLDEST_TORCH:
        raise BadInput(f"PyTorch {version} does not read pickled weights safely; {accepted}")


def pickled_files(source: Path) -> tuple[Path, list[Path]]:
    """Find the files of pickled weights.

    Args:
      source: a Hugging Face folder, or a file of weights in one.

    Returns:
      The folder, and the files of its weights.

    Raises:
      BadInput: it is neither, or files of its index are missing.
    """
    if source.is_file():
        if source.suffix not in SUFFIXES:
            raise BadInput(
                f"{source} is no file of pickled weights; accepted: a file that ends in "
                f"{', '.join(SUFFIXES)}, or a folder with {SINGLE_FILE}"
            )
        return source.parent, [regular_file(source.parent, source.name)]
    if has_file(source, SINGLE_FILE):
        return source, [regular_file(source, SINGLE_FILE)]
    if has_file(source, INDEX_FILE):
        names = sorted(set(read_weight_map(source / INDEX_FILE, ".bin").values()))
        return source, [regular_file(source, name) for name in names]
    raise BadInput(
        f"{source} has neither {SINGLE_FILE} nor {INDEX_FILE}; accepted: a Hugging Face folder "
        "with pickled weights, or a file of them in one"
    )


def ties_weights(config: Mapping[str, Any]) -> bool:
    """Return True if a model's head reads the embedding's weights.

    Args:
      config: the content of config.json; where it does not say, its model type does.
    """
    stated = config.get("tie_word_embeddings")
    if isinstance(stated, bool):
        return stated
    kind = config.get("model_type")
    return kind not in CONFIG_MAPPING or bool(AutoConfig.for_model(kind).tie_word_embeddings)


def read_pickled(files: list[Path], *, tied: bool) -> tuple[list[DeferredTensor], list[str]]:
    """Read tensors of several files; their numbers are read when they are written.

    Args:
      files: of one model.
      tied: whether of several names of one tensor one alone is kept, not the head's, as the models
        that tie their weights expect; otherwise each name gets a copy.

    Returns:
      The tensors, and the names that were left out.

    Raises:
      BadInput: a file holds anything but a dictionary of names and tensors, or two hold one name.
    """
    tensors: dict[str, DeferredTensor] = {}
    left_out = []
    for path in files:
        seen = set()
        found = _read_file(path)
        for name in sorted(found, key=lambda name: HEAD.search(name) is not None):
            tensor = found[name]
            if name in tensors:
                raise BadInput(
                    f"{listed([name])} is in several files, also in {path}; accepted: each tensor "
                    "in one file"
                )
            place = _place(tensor)
            if tied and place in seen:
                left_out.append(name)
                continue
            seen.add(place)
            dtype = np.dtype(DTYPES[_dtype_name(tensor)])
            make = _array_maker(tensor)
            tensors[name] = DeferredTensor(name, tuple(tensor.shape), dtype, make)
    if not tensors:
        raise BadInput(f"{files[0]} holds no tensors; accepted: the weights of a model")
    _check_index(files[0].parent / INDEX_FILE, files, {*tensors, *left_out})
    return list(tensors.values()), left_out


def _check_index(index: Path, files: list[Path], names: set[str]) -> None:
    """Check that the files of an index have all tensors that it names."""
    is_single = [path.name for path in files] == [SINGLE_FILE]
    if is_single or not has_file(index.parent, index.name):
        return
    weight_map = read_weight_map(index, ".bin")
    read = {path.name for path in files}
    missing = [name for name, file in weight_map.items() if file in read and name not in names]
    if missing:
        raise BadInput(
            f"{index} names {listed(missing)}, which the files do not have; accepted: all files "
            "of the model, whole"
        )


def _read_file(path: Path) -> dict[str, Any]:
    """Read a file's dictionary of names and tensors."""
    import torch

    _check_archive(path)
    try:
        # Only the newer of the two formats, a zip archive, can be read as it is needed.
        values = torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        what = f"calls {named[1][:100]}" if named else "is damaged or holds more than tensors"
        raise BadInput(
            f"{path} {what}, and is refused: a pickle can run any code; accepted: a file of "
            "tensors alone, as save_pretrained or torch.save(model.state_dict(), FILE) writes it"
        ) from error
    except Exception as error:  # a damaged file may raise anything there
        raise BadInput(
            f"{path} cannot be read as PyTorch's weights ({reason_of(error)}); accepted: a whole "
            "file, as save_pretrained writes it"
        ) from error
    if not isinstance(values, dict):
        raise BadInput(
            f"{path} holds a {type(values).__name__}; accepted: a dictionary of names and tensors"
        )
    other = [name for name, value in values.items() if not _is_writable(name, value)]
    if other:
        raise BadInput(
            f"{path} holds {listed(other)}, which are no dense tensors of numbers; accepted: a "
            f"dictionary of names and tensors of {', '.join(DTYPES)}, such as model.state_dict()"
        )
    return values


def _check_archive(path: Path) -> None:
    """Check the sums of a zip archive's parts, which PyTorch does not when it maps the file."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        damaged = reason_of(error)
    if damaged is not None:
        raise BadInput(f"{path} is damaged ({shown(damaged)}); accepted: a whole file")


def _is_writable(name: Any, value: Any) -> bool:
    import torch

    if not isinstance(name, str) or not isinstance(value, torch.Tensor):
        return False
    # Of safetensors' own, and half a character.
    if name == METADATA or not name.isprintable() or value.is_nested:
        return False
    is_dense = value.layout == torch.strided and value.device.type == "cpu"
    if not is_dense:
        return False
    # Views that repeat their numbers would take more memory than the file.
    is_stored = value.numel() * value.element_size() <= value.untyped_storage().nbytes()
    return is_stored and not value.is_quantized and _dtype_name(value) in DTYPES


def _dtype_name(tensor: Any) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _place(tensor: Any) -> tuple:
    """The memory that a tensor's numbers are in, which tied weights have in common."""
    if tensor.numel() == 0:
        return (object(),)
    place = (tensor.untyped_storage().data_ptr(), tensor.storage_offset())
    return (*place, tuple(tensor.shape), tensor.stride(), tensor.dtype)


def _array_maker(tensor: Any) -> Callable[[], np.ndarray]:
    def make() -> np.ndarray:
        import torch

        plain = tensor.detach().contiguous()
        if plain.dtype == torch.bfloat16:
            # numpy has no such type of its own.
            return plain.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        return plain.numpy()

    return make
