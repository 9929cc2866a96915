"""PEFT's adapter folder, written and read: adapter_config.json and adapter_model.safetensors.

PEFT stores lora_A [rank, in] and lora_B [out, rank] separately for each layer, and scales their
product by lora_alpha / r.
"""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flax import traverse_util
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from balora_jax.adapters.targets import Path, dotted, linear_kernels
from balora_jax.errors import BadInput

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
# Containers of repeated layers in Hugging Face's names; a stacked kernel's layer index follows.
STACKS = ("layers", "layer", "h", "block")
TASK_TYPES = {
    "causal-lm": "CAUSAL_LM",
    "seq2seq-lm": "SEQ_2_SEQ_LM",
    "sequence-classification": "SEQ_CLS",
}
# Options that change the meaning of the two matrices. An adapter with one of them is refused,
# because it would be loaded as another function.
UNSUPPORTED = (
    "use_dora",
    "rank_pattern",
    "alpha_pattern",
    "layers_to_transform",
    "modules_to_save",
    "lora_bias",
)


def layer_name(path: Path, layer: int | None) -> str:
    """Hugging Face's name of a layer.

        (model, layers, self_attn, q_proj), 3     ->  model.layers.3.self_attn.q_proj
        (bert, pooler, dense),              None  ->  bert.pooler.dense

    Args:
      path: path of the kernel's module.
      layer: index into a stacked kernel; None for a kernel that is not stacked.
    """
    if layer is None:
        return dotted(path)
    stack = next(index for index, part in enumerate(path) if part in STACKS)
    return dotted((*path[: stack + 1], str(layer), *path[stack + 1 :]))


def export_adapter(
    folder: str | pathlib.Path,
    lora: Mapping[str, Any],
    params: Mapping[str, Any],
    *,
    base: str,
    task: str = "causal-lm",
    revision: str | None = None,
    fan_in_fan_out: bool = False,
    head: Mapping[str, np.ndarray] | None = None,
    head_modules: Sequence[str] = (),
) -> None:
    """Write a `lora` collection as a plain LoRA on the unchanged base, for PEFT to load.

    Args:
      folder: created if it does not exist.
      lora: {a, b} at each target with the scale folded into b, as `student_lora` returns it in the
        delta form. PiSSA in either form is a LoRA of twice the rank on the original weights,
        [A - A0 | A0] [B ; B - B0].
      params: frozen parameters, for the names of all layers.
      base: the base model's hub id or folder.
      task: causal-lm, seq2seq-lm or sequence-classification.
      revision: the base's revision on the hub.
      fan_in_fan_out: True if the base stores its kernels as [in, out] (GPT-2's Conv1D).
      head: tensors of fully trained modules, by their Hugging Face names.
      head_modules: names of those modules, for PEFT's modules_to_save.
    """
    flat = traverse_util.flatten_dict(lora)
    paths = sorted({path[:-1] for path in flat})
    tensors = {}
    for name, tensor in (head or {}).items():
        tensors[PREFIX + name] = np.asarray(tensor, np.float32)
    for path in paths:
        a = np.asarray(flat[(*path, "a")], np.float32)
        b = np.asarray(flat[(*path, "b")], np.float32)
        tensors |= _peft_tensors(path, a, b)
    rank = int(flat[(*paths[0], "a")].shape[-1])
    config = {
        "peft_type": "LORA",
        "task_type": TASK_TYPES[task],
        "base_model_name_or_path": base,
        "revision": revision,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "target_modules": _target_modules(paths, params),
        "bias": "none",
        "fan_in_fan_out": fan_in_fan_out,
        "use_rslora": False,
        "modules_to_save": list(head_modules) or None,
        "inference_mode": True,
    }
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")


def _peft_tensors(path: Path, a: np.ndarray, b: np.ndarray) -> dict[str, np.ndarray]:
    """PEFT's tensors of one target, two for each of its layers."""
    is_stacked = a.ndim == 3
    layers = range(len(a)) if is_stacked else [None]
    tensors = {}
    for layer in layers:
        name = PREFIX + layer_name(path, layer)
        layer_a = a[layer] if is_stacked else a
        layer_b = b[layer] if is_stacked else b
        tensors[f"{name}.lora_A.weight"] = np.ascontiguousarray(layer_a.T)
        tensors[f"{name}.lora_B.weight"] = np.ascontiguousarray(layer_b.T)
    return tensors


def _target_modules(paths: list[Path], params: Mapping[str, Any]) -> list[str]:
    """The shortest names that match the targets and no other layer, for PEFT's target_modules."""
    kernels = linear_kernels(params)
    others = set(kernels) - set(paths)
    names: set[str] = set()
    for path in paths:
        suffix = _unambiguous_suffix(path, others)
        if suffix is None:
            names |= set(_layer_names(path, kernels[path]))
        else:
            names.add(dotted(suffix))
    return sorted(names)


def _unambiguous_suffix(path: Path, others: set[Path]) -> Path | None:
    """The shortest end of a path, within its layer, that ends none of the others; None if none."""
    inside = len(path)
    for length, part in enumerate(reversed(path)):
        if part in STACKS:
            inside = length
            break
    for length in range(1, inside + 1):
        suffix = path[-length:]
        if not any(other[-length:] == suffix for other in others):
            return suffix
    return None


def _layer_names(path: Path, shape: tuple[int, ...]) -> list[str]:
    """Hugging Face's names of all layers of a kernel, [in, out] or [layers, in, out]."""
    layers = range(shape[0]) if len(shape) == 3 else [None]
    return [layer_name(path, layer) for layer in layers]


def load_adapter(folder: str | pathlib.Path, params: Mapping[str, Any]) -> Mapping[str, Any]:
    """Read a PEFT LoRA folder as a `lora` collection for `params`.

    Args:
      folder: PEFT's folder.
      params: frozen parameters of the model to adapt.

    Returns:
      {a, b} at every adapted path: a [..., in, r] and b [..., r, out], float32, with the scale
      folded into b.

    Raises:
      BadInput: a file is missing, the adapter is not a plain LoRA, or its layers are not those of
        `params`.
    """
    config, tensors = _read(pathlib.Path(folder))
    alpha = config.get("lora_alpha", 8)
    rank = config["r"]
    scale = alpha / (np.sqrt(rank) if config.get("use_rslora") else rank)
    lora: dict[Path, np.ndarray] = {}
    for path, shape in linear_kernels(params).items():
        names = [PREFIX + name for name in _layer_names(path, shape)]
        present = [name for name in names if f"{name}.lora_A.weight" in tensors]
        if not present:
            continue
        if present != names:
            missing = ", ".join(sorted(set(names) - set(present)))
            raise BadInput(
                f"{folder} adapts only some layers of {dotted(path)}; missing: {missing}"
            )
        a = np.stack([tensors.pop(f"{name}.lora_A.weight").T for name in names])
        b = np.stack([tensors.pop(f"{name}.lora_B.weight").T for name in names])
        b = b * np.float32(scale)
        if (a.shape[-2], b.shape[-1]) != tuple(shape[-2:]):
            raise BadInput(
                f"{folder}: {dotted(path)} is {a.shape[-2]} x {b.shape[-1]}, "
                f"the model's {shape[-2:]}"
            )
        is_stacked = len(shape) == 3
        lora[(*path, "a")] = a if is_stacked else a[0]
        lora[(*path, "b")] = b if is_stacked else b[0]
    if tensors or not lora:
        unknown = ", ".join(sorted(tensors)[:5]) or "it is empty"
        raise BadInput(f"{folder} has layers this model lacks: {unknown}")
    return traverse_util.unflatten_dict(lora)


def _read(folder: pathlib.Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read the configuration and the float32 tensors of a plain LoRA."""
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise BadInput(
                f"{folder} is no PEFT adapter: it has no {name} "
                "(a pickled .bin is not read: it can run code)"
            )
    try:
        config = json.loads((folder / CONFIG).read_text())
        with safe_open(folder / WEIGHTS, framework="numpy") as file:
            tensors = {
                name: np.asarray(file.get_tensor(name), np.float32) for name in list(file.keys())
            }
    except (ValueError, SafetensorError) as error:
        raise BadInput(f"{folder}: {CONFIG} or {WEIGHTS} cannot be read ({error})") from error
    unsupported = [key for key in UNSUPPORTED if config.get(key)]
    has_bias = config.get("bias", "none") != "none"
    if config.get("peft_type") != "LORA" or unsupported or has_bias:
        reason = ", ".join(unsupported) or config.get("peft_type")
        raise BadInput(f"{folder} is no plain LoRA ({reason}); accepted: LoRA, bias none")
    return config, tensors
