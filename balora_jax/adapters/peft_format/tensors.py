"""The tensors of adapter_model.safetensors: the factors, and those of modules trained whole."""

import pathlib
from typing import NamedTuple

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from balora_jax.adapters.peft_format.files import require_file
from balora_jax.adapters.peft_format.names import BASE_END, PREFIX, WEIGHTS
from balora_jax.errors import BadInput, reason_of, shown

# safetensors reads bfloat16 by the name that ml_dtypes registers.
FLOATS = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}


class Tensors(NamedTuple):
    """The tensors of a file, float32 and finite, by their names without PEFT's prefix.

    Attributes:
      path: the file.
      factors: lora_A and lora_B of the layers.
      whole: the tensors of modules that were trained whole.
      bases: the base's weights of adapted layers, which PEFT saves of embeddings and heads.
    """

    path: pathlib.Path
    factors: dict[str, np.ndarray]
    whole: dict[str, np.ndarray]
    bases: dict[str, np.ndarray]


def read_tensors(folder: pathlib.Path) -> Tensors:
    """Read adapter_model.safetensors.

    Args:
      folder: PEFT's folder.

    Returns:
      Its tensors.

    Raises:
      BadInput: the file is missing or damaged, or a tensor has a wrong name or type, no elements,
        or numbers that are not finite.
    """
    path = require_file(folder, WEIGHTS)
    factors = {}
    whole = {}
    bases = {}
    try:
        with safe_open(path, framework="numpy") as file:
            for name in list(file.keys()):
                tensor = _read(path, file, name)
                kind = factors if ".lora_" in name else whole
                kind = bases if name.endswith(BASE_END) else kind
                kind[name.removeprefix(PREFIX)] = tensor
    except (OSError, SafetensorError) as error:
        raise BadInput(
            f"{path} is not a whole safetensors file: truncated or damaged ({reason_of(error)}); "
            "accepted: the file as PEFT or balora wrote it"
        ) from error
    if not factors:
        raise BadInput(f"{path} has no factors; accepted: lora_A and lora_B of at least one layer")
    return Tensors(path, factors, whole, bases)


def _read(path: pathlib.Path, file: safe_open, name: str) -> np.ndarray:
    """Read one tensor as float32."""
    if not name.startswith(PREFIX):
        raise BadInput(
            f"{path}: the name of tensor {shown(name)} is not PEFT's; accepted: {PREFIX}..."
        )
    dtype = file.get_slice(name).get_dtype()
    if dtype not in FLOATS:
        raise BadInput(f"{path}: {shown(name)} is stored as {dtype}; accepted: {', '.join(FLOATS)}")
    stored = file.get_tensor(name)
    if stored.size == 0:
        raise BadInput(
            f"{path}: {shown(name)} has no elements, shape {list(stored.shape)}; accepted: a "
            "tensor gathered whole before it was saved"
        )
    # A float64 beyond float32's range becomes infinite, which is refused.
    with np.errstate(over="ignore"):
        tensor = np.asarray(stored, np.float32)
    if not np.isfinite(tensor).all():
        raise BadInput(
            f"{path}: {shown(name)} has numbers that are not finite; accepted: finite numbers"
        )
    return tensor
